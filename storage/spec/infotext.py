"""What picture galleries read of a picture: the "infotext" of the AUTOMATIC1111 web UI."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
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
#: Controls that are written by their own names.
_BY_NAME = (
    *("prompt_weighting", "long_prompts", "guess_mode", "prior_num_inference_steps", "prior_guidance_scale"),
    *("original_size", "crops_coords_top_left", "target_size", "prompt_embeds"),
)
#: Signs that the values of a ControlNet's unit cannot have.
_NO_LISTS = re.compile(r"[,:]+ *")
#: A model's own sampler, if the recipe does not tell which: readers find nothing at all in a text that names none.
MODELS_OWN = "Default"


def infotext(spec: Spec, made_with: Mapping[str, Any]) -> str:
    """Write a picture's settings as the web UI's `create_infotext` does, for picture galleries to parse.

    Controls that the web UI has no name for are there by their own (`Long prompts: chunk`).

    Args:
        made_with: the recipe: it tells which sampler a model's own one is, hashes, and the version of the farm.
    """
    sampler, schedule = sampler_and_schedule(spec.sampler, made_with)
    fields = {
        "Steps": spec.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": _number(spec.guidance_scale),
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}",
        "Model hash": short_hash(made_with.get("sha256")),
        "Model": spec.model,
        "VAE hash": short_hash(made_with.get("vae_sha256")),
        "VAE": made_with.get("vae_source"),
        **_controlnets(spec, made_with),
        # The web UI counts the layer at which it stops, from the end.
        "Clip skip": spec.clip_skip + 1 if spec.clip_skip else None,
        "Eta": _number(spec.eta) if spec.eta else None,
        "Lora hashes": _hashes(made_with.get("loras"), "past_header"),
        "TI hashes": _hashes(made_with.get("embeddings"), "sha256"),
        **_controls_by_name(spec),
        "Version": f"diffusion-farm {made_with.get('farm', '')}".strip(),
    }
    tags = [f"<lora:{alias}:{_number(scale)}>" for alias, scale in (spec.loras or {}).items()]
    lines = [" ".join(filter(None, [spec.prompt, *tags]))]
    if spec.negative_prompt:
        lines.append(f"Negative prompt: {spec.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)


def short_hash(sha256: Any) -> str | None:
    """Return what the web UI writes of a checkpoint's or VAE's hash; None where there is none."""
    return str(sha256)[:10] if sha256 else None


def without_prompts(text: str) -> str:
    """Return the settings of what `infotext` wrote, which are its last line."""
    return text.rpartition("\n")[2]


def _controlnets(spec: Spec, made_with: Mapping[str, Any]) -> dict[str, str]:
    """Return a setting for each ControlNet, as the web UI's extension does (its internal_controlnet/args.py)."""
    said = made_with.get("controlnets") or []
    names = {}
    for number, _ in enumerate(spec.control_images or ()):
        unit = {
            # First, and behind the picture's own: of readers that know no quotes, sd-prompt-reader takes the first
            # "Model:" for the picture's, sd-parsers the last that stands behind a comma.
            "Model": _NO_LISTS.sub(" ", str(said[number])) if number < len(said) else "unknown",
            "Module": "none",
            "Weight": _at(spec.controlnet_conditioning_scale, number, 1.0),
            "Guidance Start": _at(spec.control_guidance_start, number, 0.0),
            "Guidance End": _at(spec.control_guidance_end, number, 1.0),
            "Control Mode": "Balanced",
        }
        names[f"ControlNet {number}"] = ", ".join(f"{name}: {value}" for name, value in unit.items())
    return names


def _at(values: Sequence[float] | None, number: int, default: float) -> str:
    """Return a ControlNet's own value: one alone is that of all."""
    if not values:
        return _number(default)
    return _number(values[number] if number < len(values) else values[0])


def _controls_by_name(spec: Spec) -> dict[str, str]:
    """Return the controls that the web UI has no setting for, such as `Prior steps`, as a table's cells have them."""
    found = {}
    for name in _BY_NAME:
        value = getattr(spec, name)
        if value is not None:
            found[name.replace("_", " ").capitalize()] = (
                ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            )
    return found


def _hashes(used: Any, kind: str) -> str | None:
    """Return `name: hash` of each LoRA, or embedding, that a recipe knows the hash of; the web UI writes 12 digits."""
    return ", ".join(f"{name}: {str(one[kind])[:12]}" for name, one in (used or {}).items() if one.get(kind)) or None


def _number(value: float) -> str:
    """Return a number without a needless `.0`, and with all its digits."""
    short = f"{value:g}"
    # Without an exponent: the web UI's weights of LoRAs have none.
    return short if float(short) == value and "e" not in short else f"{Decimal(repr(value)):f}"


def _quoted(value: object) -> str:
    """Return a value as the web UI quotes it: as JSON, where commas, colons or lines within it would end it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


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
