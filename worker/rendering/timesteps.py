"""The timesteps that a scheduler of Diffusers walks, put right for the numbers of steps for which its own are not.

What Diffusers gives stands wherever it is right, bit for bit. worker/README.md tells where it is not.
"""

import copy
import functools
from typing import Any

import numpy as np
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

Floats = np.ndarray[Any, Any]

#: Classes that interpolate timesteps between those of their steps: they are not given any, but another spacing.
_INTERPOLATING = (KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler)
#: Classes whose timesteps can be put right in the ways below.
_KNOWN = (
    *(DDIMParallelScheduler, DDPMParallelScheduler, CogVideoXDDIMScheduler, CogVideoXDPMScheduler),
    *(SASolverScheduler, *_INTERPOLATING),
    *(DDIMScheduler, DDPMScheduler, PNDMScheduler, LCMScheduler),
    *(DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, DEISMultistepScheduler, UniPCMultistepScheduler),
    *(EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler),
)
#: The first timestep lies in the last quarter of training: the pipeline starts from pure noise, and what the model
#: expects earlier holds too much of a picture (the shipped model's colours are then off by 15 of 255).
_NOISY_ENOUGH = 0.75
#: Schedules of σ from which the timesteps follow, not the other way round.
_BY_SIGMA = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
#: How far the timesteps may lie apart, in strides of DDIM and PNDM, without colours being off by 1 of 255.
_WIDEST_STRIDE = 1.1


def keep_timesteps_right(scheduler: Any) -> Any:
    """Make a scheduler put its timesteps right whenever they are set, and return it."""
    if not _is(scheduler, _KNOWN):
        return scheduler
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def set_right(num_inference_steps: int | None = None, *given: Any, **named: Any) -> None:
        set_timesteps(num_inference_steps, *given, **named)
        if num_inference_steps is not None and not scheduler.config.get("use_flow_sigmas"):
            if _is(scheduler, _INTERPOLATING) and not hold(scheduler, num_inference_steps):
                # For one step "linspace" gives the last timestep, for some others "trailing" gives one too many.
                spacing = "trailing" if num_inference_steps == 1 else "linspace"
                scheduler.register_to_config(timestep_spacing=spacing)
                set_timesteps(num_inference_steps, *given, **named)
            else:
                _put_right(scheduler, num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            # Otherwise the first of equal timesteps is skipped.
            scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_right
    if _is(scheduler, (DDIMScheduler, DDIMParallelScheduler, CogVideoXDDIMScheduler, PNDMScheduler)):
        _step_to_the_next_timestep(scheduler)
    return scheduler


def copied(scheduler: Any) -> Any:
    """Return a scheduler in the same state that goes its own way; tensors are shared, for no step changes them.

    But for PNDM's Runge-Kutta steps, which add to one of them in place.
    """
    made = copy.copy(scheduler)
    state = vars(made)
    for name in ("set_timesteps", "step"):
        # Those that were put right belong to the original.
        state.pop(name, None)
    state.update({name: list(value) for name, value in state.items() if isinstance(value, list)})
    return keep_timesteps_right(made)


def noise_levels(scheduler: Any) -> Floats:
    """Return the timesteps at which a scheduler's steps begin, each once, from noise to picture."""
    if _is(scheduler, PNDMScheduler):
        return np.asarray(scheduler._timesteps, dtype=np.float64)[::-1]
    timesteps: Floats = scheduler.timesteps.double().cpu().numpy()
    if _is(scheduler, HeunDiscreteScheduler):
        return np.concatenate([timesteps[:1], timesteps[1::2]])
    return timesteps[::2] if _is(scheduler, _INTERPOLATING) else timesteps


def hold(scheduler: Any, steps: int) -> bool:
    """Tell whether the timesteps are as many as asked for, those of training, falling, and begin in enough noise."""
    found, trained = noise_levels(scheduler), scheduler.config.num_train_timesteps
    return bool(
        len(found) == steps
        and found[0] >= _NOISY_ENOUGH * trained
        and found.max() < trained
        and found.min() >= 0
        and (np.diff(found) < 0).all()
    )


def _is(scheduler: Any, kind: Any) -> bool:
    """Do what `isinstance` does, without making mypy believe that Diffusers declares all that its classes have."""
    return isinstance(scheduler, kind)


def _put_right(scheduler: Any, steps: int) -> None:
    if hold(scheduler, steps):
        return
    if any(scheduler.config.get(flag) for flag in _BY_SIGMA):
        _give(scheduler, _of_sigmas(scheduler, scheduler.sigmas[:steps].double().numpy()))
        return
    # Spaced from the last timestep of training downwards ("trailing" in arXiv:2305.08891, table 2).
    trained = scheduler.config.num_train_timesteps
    scheduler.register_to_config(timestep_spacing="trailing")
    _give(scheduler, np.round(trained - np.arange(steps) * (trained / steps)) - 1)


def _of_sigmas(scheduler: Any, sigmas: Floats) -> Floats:
    """Return the timesteps of σs, with fractions: rounded ones repeat where many steps are close together."""
    trained = _sigmas(scheduler)
    found: Floats = np.interp(np.log(sigmas), np.log(trained), np.arange(len(trained)))
    return found


def _sigmas(scheduler: Any) -> Floats:
    """Return σ at every timestep of training."""
    alphas_cumprod = scheduler.alphas_cumprod.cpu().numpy()
    return np.asarray(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5)


def _give(scheduler: Any, timesteps: Floats) -> None:
    """Give a scheduler the timesteps at which its steps begin, and the σs that belong to them."""
    if _is(scheduler, PNDMScheduler):
        _give_pndm(scheduler, timesteps.astype(np.int64))
        return
    whole = bool((timesteps == timesteps.round()).all())
    like = scheduler.timesteps
    given = torch.from_numpy(timesteps).to(device=like.device, dtype=like.dtype if whole else torch.float32)
    if isinstance(getattr(scheduler, "sigmas", None), torch.Tensor) and whole:
        sigmas = np.interp(timesteps, np.arange(len(scheduler.alphas_cumprod)), _sigmas(scheduler))
        scheduler.sigmas = torch.cat([torch.from_numpy(sigmas).to(scheduler.sigmas.dtype), scheduler.sigmas[-1:]])
    if _is(scheduler, HeunDiscreteScheduler):
        sigmas = scheduler.sigmas
        scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        given = torch.cat([given[:1], given[1:].repeat_interleave(2)])
    scheduler.timesteps = given
    scheduler.num_inference_steps = len(timesteps)


def _give_pndm(scheduler: Any, timesteps: Floats) -> None:
    """Do what its `set_timesteps` does with timesteps of another spacing."""
    upwards, device = timesteps[::-1], scheduler.timesteps.device
    if scheduler.config.skip_prk_steps:
        first = np.array([], dtype=np.int64)
        rest = np.concatenate([upwards[:-1], upwards[-2:-1], upwards[-1:]])[::-1].copy()
    else:
        half = scheduler.config.num_train_timesteps // len(timesteps) // 2
        four = upwards[-4:].repeat(2) + np.tile(np.array([0, half]), 4)
        first, rest = four[:-1].repeat(2)[1:-1][::-1].copy(), upwards[:-3][::-1].copy()
    scheduler._timesteps, scheduler.prk_timesteps, scheduler.plms_timesteps = upwards, first, rest
    scheduler.timesteps = torch.from_numpy(np.concatenate([first, rest])).to(device)


class _Stride(int):
    """A number of steps by which Diffusers divides those of training: the quotient is the stride itself."""

    def __rfloordiv__(self, _trained: int) -> int:
        return int(self)


def _step_to_the_next_timestep(scheduler: Any) -> None:
    """Make DDIM or PNDM step from each timestep to the next where their own stride, a fixed one, falls far short.

    They step by ⌊trained / steps⌋ timesteps however far away the next one is, so that much of the noise would stay.
    """
    step = scheduler.step
    read: tuple[Any, Floats] = (None, np.zeros(0))

    @functools.wraps(step)
    def step_to_next(model_output: Any, timestep: Any, *given: Any, **named: Any) -> Any:
        nonlocal read
        if read[0] is not scheduler.timesteps:
            # Once for all steps, not at each of them.
            read = (scheduler.timesteps, noise_levels(scheduler))
        levels, steps = read[1], scheduler.num_inference_steps
        stride = scheduler.config.num_train_timesteps // steps
        if len(levels) < 2 or levels[0] - levels[-1] <= _WIDEST_STRIDE * stride * (len(levels) - 1):
            return step(model_output, timestep, *given, **named)
        # PNDM's second call repeats its first step, towards the timestep that it is given.
        repeated = _is(scheduler, PNDMScheduler) and scheduler.counter == 1 and scheduler.config.skip_prk_steps
        wanted = levels[0] - levels[1] if repeated else timestep - max((*levels[levels < int(timestep)], -1))
        scheduler.num_inference_steps = _Stride(wanted)
        try:
            return step(model_output, timestep, *given, **named)
        finally:
            scheduler.num_inference_steps = steps

    scheduler.step = step_to_next
