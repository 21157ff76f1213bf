"""Samplers by the names that people use (`storage.spec.sampler_names`), as Diffusers' scheduler classes.

worker/README.md says how to add one, and what these classes do that one would not expect.
"""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from storage.spec.profiles import Distilled, distillation
from storage.spec.sampler_names import split
from storage.spec.samplers import DISTILLED_STEPS
from worker.rendering.mended_schedulers import (
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    ThirdOrderSDEScheduler,
)
from worker.rendering.noise_schedules import with_schedule
from worker.rendering.timesteps import keep_timesteps_right

_STOCHASTIC = {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False}
#: The class of each sampler and the settings that make it what its name says; all others are the class's defaults.
#: PNDM without Runge-Kutta steps is what others call PLMS; DPM++ SDE is k-diffusion's `dpmpp_sde`: with a schedule, one
#: of its steps is one of k-diffusion's, with two calls; alone, each of its calls counts as a step.
_SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++ 2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpm++ 2m karras": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++ sde": (
        DPMSolverSinglestepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False, "lower_order_final": True},
    ),
    "euler": (EulerDiscreteScheduler, {}),
    "euler a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "unipc": (UniPCMultistepScheduler, {}),
    "dpm2": (KDPM2DiscreteScheduler, {}),
    "dpm2 a": (KDPM2AncestralDiscreteScheduler, {}),
    "dpm++ 2m sde": (DPMSolverMultistepScheduler, _STOCHASTIC),
    "dpm++ 2m sde heun": (DPMSolverMultistepScheduler, {**_STOCHASTIC, "solver_type": "heun"}),
    # Its second step, of order 2, is k-diffusion's with Heun's formula; the last but one is of order 3, however few.
    "dpm++ 3m sde": (
        ThirdOrderSDEScheduler,
        {**_STOCHASTIC, "solver_order": 3, "solver_type": "heun", "lower_order_final": False},
    ),
}
#: Settings that say what a model was trained for, and so hold for every sampler. `from_config` would leave out those
#: that the model's file does not name, and the new class's defaults differ: in Heun's, other betas.
_OF_THE_MODEL = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("prediction_type", "variance_type", "use_flow_sigmas", "flow_shift", "lambda_min_clipped"),
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
    *("set_alpha_to_one", "original_inference_steps", "timestep_scaling"),
)
#: Settings that each class has a custom of its own for; a model's holds where its file names it.
_OF_THE_FILE = ("timestep_spacing", "steps_offset")


def make_scheduler(sampler: str | None, own: Any, *, sdxl: bool = False) -> Any:
    """Make a fresh scheduler for one batch (multistep ones carry state) for the model whose own one this is.

    A sampler of None is the model's own. A named one has the model's noise schedule and prediction type, and nothing of
    its own sampler. The timesteps are right for each number of steps that `storage.spec.samplers` lets pass.

    Args:
        sdxl: whether the model is of SDXL's kind, which one schedule has its own noise levels for.
    """
    if sampler is None:
        # All settings as they are: `from_config` would replace some of them by defaults again.
        settings = {name: value for name, value in own.config.items() if name != "_use_default_values"}
        return keep_timesteps_right(_made(type(own), settings, own))
    solver, schedule = (sampler, None) if sampler in _SAMPLERS else split(sampler)
    kind, changes = _SAMPLERS[solver]
    settings = {"clip_sample": False} | _of_the_model(own) | changes
    if sampler == "lcm" and "original_inference_steps" not in settings:
        settings["original_inference_steps"] = min(DISTILLED_STEPS, own.config.num_train_timesteps)
    if sampler == "pndm" and type(own) is kind:
        settings["skip_prk_steps"] = own.config["skip_prk_steps"]
    made = _made(kind, settings, own)
    return keep_timesteps_right(made) if schedule is None else with_schedule(made, solver, schedule, sdxl=sdxl)


def spaced_as_distilled(own: Any, distilled: Distilled | None) -> Any:
    """Return a model's own scheduler with its timesteps where a distilled model has them, whatever its file says.

    Named samplers take that over. Weights of Lightning are put into folders of SDXL, whose file has other timesteps.
    """
    spacing = distillation(distilled).spacing if distilled else None
    if spacing is None or "timestep_spacing" not in own.config or own.config.timestep_spacing == spacing:
        return own
    settings = {name: value for name, value in own.config.items() if name != "_use_default_values"}
    return type(own).from_config(settings, timestep_spacing=spacing)


def sampler_recipe(scheduler: Any) -> dict[str, Any]:
    """Return what a recipe says of a scheduler: its class and settings."""
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {"scheduler": type(scheduler).__name__, "scheduler_config": settings}


def _of_the_model(own: Any) -> dict[str, Any]:
    """Return the model's settings among those of its own scheduler."""
    config, unsaid = own.config, set(own.config.get("_use_default_values", ()))
    defaults = type(own)().config
    # A pipeline may have corrected a value that the file does not name.
    said = [name for name in _OF_THE_FILE if name not in unsaid or config.get(name) != defaults.get(name)]
    return {name: config[name] for name in (*_OF_THE_MODEL, *said) if name in config}


def _made(kind: Any, settings: dict[str, Any], own: Any) -> Any:
    taken = kind._get_init_keys(kind)
    scheduler = kind.from_config({name: value for name, value in settings.items() if name in taken or name[0] == "_"})
    if settings.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in taken:
        _end_without_signal(scheduler, own)
    return scheduler


def _end_without_signal(scheduler: Any, own: Any) -> None:
    """Give a scheduler the noise of a model that was trained to zero signal, if its class knows nothing of that."""
    alphas_cumprod = own.alphas_cumprod.clone()
    # As the classes that know it do: σ must not be infinite.
    alphas_cumprod[-1] = 2**-24
    scheduler.alphas_cumprod = alphas_cumprod
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    scheduler.alphas = alphas_cumprod / before
    scheduler.betas = 1 - scheduler.alphas
    if hasattr(scheduler, "lambda_t"):
        scheduler.alpha_t, scheduler.sigma_t = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
        scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
    scheduler.register_to_config(rescale_betas_zero_snr=True)
