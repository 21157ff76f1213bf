"""What picture galleries read of a picture: the "infotext" of the AUTOMATIC1111 web UI."""

from collections.abc import Mapping
from typing import Any

from storage.spec.picture import Spec
from storage.spec.sampler_names import SCHEDULES, SOLVERS, split

#: Schedules of noise levels: the flag in Diffusers' configuration → the name in the web UI.
_SCHEDULES = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}
#: Diffusers' classes of samplers that a model may have as its own → the names that people and galleries write.
_OWN = {
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "DEISMultistepScheduler": "DEIS",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSinglestepScheduler": "DPM++ 2S",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PNDM",
    "UniPCMultistepScheduler": "UniPC",
}
#: What a sampler of noise, DPM++ 2M and 2S among them, is called beside.
_STOCHASTIC = {"DPM++ 2M": "DPM++ 2M SDE", "DPM++ 2S": "DPM++ SDE"}
#: A model's own sampler, if the recipe does not tell which: readers find nothing at all in a text that names none.
MODELS_OWN = "Default"


def infotext(spec: Spec, made_with: Mapping[str, Any]) -> str:
    """Write a picture's settings as the web UI's `create_infotext` does, for picture galleries to parse.

    Args:
        made_with: the recipe: it tells which sampler a model's own one is, and the version of the farm.
    """
    sampler, schedule = sampler_and_schedule(spec.sampler, made_with)
    fields = {
        "Steps": spec.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{spec.guidance_scale:g}",
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}",
        "Model": spec.model,
        # The web UI counts the layer at which it stops, from the end.
        "Clip skip": spec.clip_skip + 1 if spec.clip_skip else None,
        "Eta": f"{spec.eta:g}" if spec.eta else None,
        "Version": f"diffusion-farm {made_with.get('farm', '')}".strip(),
    }
    tags = [f"<lora:{alias}:{scale:g}>" for alias, scale in (spec.loras or {}).items()]
    lines = [" ".join(filter(None, [spec.prompt, *tags]))]
    if spec.negative_prompt:
        lines.append(f"Negative prompt: {spec.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)


def sampler_and_schedule(sampler: str | None, made_with: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the names of a sampler, the model's own for None, and of its schedule, as galleries write them."""
    config = made_with.get("scheduler_config") or {}
    schedule = next((name for flag, name in _SCHEDULES.items() if config.get(flag)), None)
    if sampler is None:
        return _own(str(made_with.get("scheduler") or ""), config), schedule
    solver, named = split(sampler)
    return SOLVERS[solver], SCHEDULES[named] if named else schedule


def _own(kind: str, config: Mapping[str, Any]) -> str:
    name = _OWN.get(kind, kind.removesuffix("Scheduler"))
    if str(config.get("algorithm_type", "")).startswith("sde-"):
        name = _STOCHASTIC.get(name, name)
    return name or MODELS_OWN
