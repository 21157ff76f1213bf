"""Samplers by the names that people use (`storage.spec.picture.SAMPLERS`), as Diffusers' scheduler classes.

worker/README.md says how to add one.
"""

from typing import Any

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

#: PNDM without Runge-Kutta steps is what others call PLMS; DPM++ SDE is k-diffusion's `dpmpp_sde`.
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
}


def make_scheduler(sampler: str | None, own: Any) -> Any:
    """Make a fresh scheduler for one batch (multistep ones carry state), configured like the model's own one.

    A sampler of None keeps the model's own class.
    """
    kind, changes = (type(own), {}) if sampler is None else _SAMPLERS[sampler]
    return kind.from_config(own.config, **changes)
