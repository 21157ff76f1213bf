"""What a picture's latents would be without noise, as far as one call of the model tells: from any sampler's step.

Samplers step latents that are still noisy. With the noise level at which the model was called, what it predicted tells
the latents without noise (Karras et al., 2206.00364, table 1; Salimans and Ho, 2202.00512, appendix D, for v; flow
matching, 2210.02747): the same for all samplers of a class of models.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

from worker.rendering.backend import NoPreview

#: Their latents are picture + σ × noise.
_BY_SIGMA = (
    *(EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler),
    *(KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler),
)
#: Every second of their calls is at a noise level between two others, in a list that each counts in another way.
_BETWEEN = {KDPM2DiscreteScheduler: 0, KDPM2AncestralDiscreteScheduler: -1}
#: Theirs are α × picture + σ × noise, by the timestep,
_BY_TIMESTEP = (DDIMScheduler, DDPMScheduler, LCMScheduler, PNDMScheduler)
#: or by the σ of the step.
_BY_STEP = (
    *(DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, DEISMultistepScheduler),
    *(SASolverScheduler, UniPCMultistepScheduler),
)
#: Theirs are (1 − σ) × picture + σ × noise, and predicted is noise − picture.
_FLOW = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)


@dataclass(frozen=True, kw_only=True)
class StepMade:
    """What a sampler was given for a step: one row for each picture. Nothing is computed before it is asked for."""

    predicted: torch.Tensor
    latents: torch.Tensor
    timestep: Any
    #: Which of the sampler's steps it is.
    index: int | None

    def rows(self, places: Sequence[int]) -> "StepMade":
        some = list(places)
        return replace(self, predicted=self.predicted[some], latents=self.latents[some])


def denoised(scheduler: Any, step: StepMade) -> torch.Tensor:
    """Return latents without noise, as the step's, in single precision. Nothing is read back from the device.

    Raises NoPreview for a scheduler whose latents are not known.
    """
    latents = step.latents.float()
    # Some models predict a variance beside.
    predicted = step.predicted[:, : latents.shape[1]].float() if latents.dim() > 3 else step.predicted.float()
    kind = "flow_prediction" if isinstance(scheduler, _FLOW) else scheduler.config.get("prediction_type", "epsilon")
    alpha, sigma = _levels(scheduler, step)
    if isinstance(scheduler, _BY_SIGMA) and kind == "v_prediction":
        made = latents / (sigma**2 + 1) - predicted * sigma / (sigma**2 + 1) ** 0.5
    elif kind == "epsilon":
        made = (latents - sigma * predicted) / alpha
    elif kind == "v_prediction":
        made = alpha * latents - sigma * predicted
    elif kind == "flow_prediction":
        made = latents - sigma * predicted
    elif kind == "sample":
        made = predicted
    else:
        raise NoPreview(f"it is not known what a sampler with prediction_type {kind} predicts")
    found: torch.Tensor = made
    return found


def _levels(scheduler: Any, step: StepMade) -> tuple[Any, Any]:
    """Return the shares of picture and noise in the latents of a step."""
    if isinstance(scheduler, _BY_TIMESTEP):
        at = torch.as_tensor(step.timestep).long()
        alphas = scheduler.alphas_cumprod.to(at.device)[at].to(step.latents.device)
        return alphas**0.5, (1 - alphas) ** 0.5
    index = scheduler.step_index - 1 if step.index is None else step.index
    for kind, behind in _BETWEEN.items() if index % 2 else ():
        if isinstance(scheduler, kind):
            return 1.0, scheduler.sigmas_interpol[index + behind]
    if isinstance(scheduler, (*_BY_SIGMA, *_FLOW)):
        return 1.0, scheduler.sigmas[index]
    if isinstance(scheduler, _BY_STEP):
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index])
        return alpha, sigma
    raise NoPreview(f"it is not known how noisy the latents of a {type(scheduler).__name__} are")


def recorded(scheduler: Any, note: Callable[[StepMade], None]) -> None:
    """Have a scheduler that is made for one batch tell of each step that it was asked to make."""
    if hasattr(scheduler.step, "noted"):
        # By another call of the batch.
        return
    step = scheduler.step
    taken = inspect.signature(step)

    @functools.wraps(step)
    def noted(*args: Any, **kwargs: Any) -> Any:
        made = step(*args, **kwargs)
        given = taken.bind(*args, **kwargs).arguments
        # Of a class with other words than most, there is nothing to tell.
        if {"sample", "model_output", "timestep"} <= given.keys():
            latents, predicted = given["sample"], given["model_output"]
            note(StepMade(predicted=predicted, latents=latents, timestep=given["timestep"], index=None))
        return made

    noted.noted = True  # type: ignore[attr-defined]
    scheduler.step = noted
