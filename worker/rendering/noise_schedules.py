"""Schedules of noise levels by name (`storage.spec.sampler_names`), given to a scheduler of Diffusers.

σ is k-diffusion's, √((1 − ᾱ) ÷ ᾱ): the noise on a picture of unit scale. Diffusers' own flags for some of these take
their ends from the timestep spacing, so that with `leading` or `trailing` they begin or end elsewhere than the
schedule of that name; here the ends are always the model's.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverSinglestepScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
)

Floats = np.ndarray[Any, Any]

#: ρ of Karras et al. 2022 (arXiv:2206.00364).
_RHO = 7.0
#: Both parameters of the Beta distribution: defaults of the web UI, ComfyUI and Diffusers.
_BETA = 0.6
#: The eleven σ of "Align Your Steps" (arXiv:2404.14507) for SD 1.5 and SDXL, as on its authors' page.
_ALIGNED: Mapping[bool, tuple[float, ...]] = {
    False: (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    True: (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
#: Solvers that leave out the last σ but one of one step more: DPM2 everywhere, 3M SDE in the web UI.
_DISCARDING = ("dpm2", "dpm2 a", "dpm++ 3m sde")


def with_schedule(scheduler: Any, solver: str, schedule: str, *, sdxl: bool) -> Any:
    """Make a scheduler of Diffusers walk a schedule whenever its timesteps are set, and return it.

    `set_timesteps` raises ValueError for a number of steps that the schedule does not have
    (`storage.spec.samplers` refuses it before).

    Args:
        solver: which solver it is, without the schedule.
        sdxl: whether the model is of SDXL's kind, which "Align Your Steps" has its own σ for.
    """
    # Each class can be asked for every number of steps by it, and begins with noise of the first σ.
    scheduler.register_to_config(timestep_spacing="linspace", noise_schedule=schedule)
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def set_schedule(num_inference_steps: int, device: Any = None, **named: Any) -> None:
        sigmas = sigmas_of(schedule, num_inference_steps, trained_sigmas(scheduler), solver=solver, sdxl=sdxl)
        if isinstance(scheduler, KDPM2DiscreteScheduler | KDPM2AncestralDiscreteScheduler):
            _set_interpolating(scheduler, set_timesteps, sigmas, device)
        else:
            set_timesteps(num_inference_steps, device=device, **named)
            _give(scheduler, sigmas)
        # Otherwise the first of equal timesteps is skipped.
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_schedule
    return scheduler


def trained_sigmas(scheduler: Any) -> Floats:
    """Return σ at every timestep of training, rising."""
    alphas_cumprod = scheduler.alphas_cumprod.double().cpu().numpy()
    return np.asarray(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5)


def sigmas_of(schedule: str, steps: int, trained: Floats, *, solver: str, sdxl: bool = False) -> Floats:
    """Return the σ at which the steps of a schedule begin, falling, (steps,); the last step goes to 0.

    Raises ValueError for a number of steps that it does not have.
    """
    discarding = solver in _DISCARDING
    wanted = steps + discarding
    found = aligned(wanted, sdxl=sdxl) if schedule == "align your steps" else _SCHEDULES[schedule](wanted, trained)
    if len(found) != wanted or not (np.diff(found) < 0).all():
        raise ValueError(f"the schedule {schedule} cannot have {steps} steps with a model of {len(trained)} timesteps")
    return found[:-1] if discarding else found


def aligned(steps: int, *, sdxl: bool) -> Floats:
    """Return the σ of "Align Your Steps", interpolated in log σ as the web UI does."""
    known = np.log(_ALIGNED[sdxl])
    if steps == len(known):
        return np.exp(known)
    found: Floats = np.exp(np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, len(known)), known[::-1]))[::-1]
    return found


def _at(timesteps: Floats, trained: Floats) -> Floats:
    """Return σ between timesteps of training, by log σ, as k-diffusion's `t_to_sigma`."""
    return np.asarray(np.exp(np.interp(timesteps, np.arange(len(trained)), np.log(trained))))


def _uniform(steps: int, trained: Floats) -> Floats:
    return _at(np.linspace(len(trained) - 1, 0, steps), trained)


def _sgm_uniform(steps: int, trained: Floats) -> Floats:
    return _at(np.linspace(len(trained) - 1, 0, steps + 1)[:-1], trained)


def _karras(steps: int, trained: Floats) -> Floats:
    most, least = trained[-1] ** (1 / _RHO), trained[0] ** (1 / _RHO)
    return np.asarray((most + np.linspace(0, 1, steps) * (least - most)) ** _RHO)


def _exponential(steps: int, trained: Floats) -> Floats:
    return np.asarray(np.exp(np.linspace(math.log(trained[-1]), math.log(trained[0]), steps)))


def _simple(steps: int, trained: Floats) -> Floats:
    stride = len(trained) / steps
    return np.asarray(trained[[-(1 + int(step * stride)) for step in range(steps)]])


def _ddim_uniform(steps: int, trained: Floats) -> Floats:
    # ComfyUI's has more steps than were asked for where they do not divide the timesteps; `sigmas_of` refuses those.
    found: Floats = trained[1 :: max(len(trained) // steps, 1)][::-1]
    return found


def _quantiles(shares: Floats) -> Floats:
    # Loaded where it is needed: it takes a second.
    from scipy import stats

    return np.asarray(stats.beta.ppf(shares, _BETA, _BETA))


def _beta(steps: int, trained: Floats) -> Floats:
    return np.asarray(trained[0] + _quantiles(1 - np.linspace(0, 1, steps)) * (trained[-1] - trained[0]))


def _beta_timesteps(steps: int, trained: Floats) -> Floats:
    shares = 1 - np.linspace(0, 1, steps, endpoint=False)
    return np.asarray(trained[np.rint(_quantiles(shares) * (len(trained) - 1)).astype(int)])


def _kl_optimal(steps: int, trained: Floats) -> Floats:
    shares = np.linspace(0, 1, steps)
    return np.asarray(np.tan(shares * math.atan(trained[0]) + (1 - shares) * math.atan(trained[-1])))


def _trailing(steps: int, trained: Floats) -> Floats:
    # Spaced from the last timestep of training downwards ("trailing" in arXiv:2305.08891, table 2).
    timesteps = np.round(len(trained) - np.arange(steps) * (len(trained) / steps)).astype(int) - 1
    return np.asarray(trained[timesteps])


_SCHEDULES: Mapping[str, Callable[[int, Floats], Floats]] = {
    "uniform": _uniform,
    "karras": _karras,
    "exponential": _exponential,
    "sgm uniform": _sgm_uniform,
    "simple": _simple,
    "ddim uniform": _ddim_uniform,
    "beta": _beta,
    "beta timesteps": _beta_timesteps,
    "kl optimal": _kl_optimal,
    "trailing": _trailing,
}


def _timesteps(sigmas: Floats, trained: Floats) -> Floats:
    """Return the timesteps of σs, with fractions, as k-diffusion's `sigma_to_t`."""
    return np.asarray(np.interp(np.log(sigmas), np.log(trained), np.arange(len(trained))))


def _give(scheduler: Any, sigmas: Floats) -> None:
    """Give a scheduler whose timesteps are set other σs, and the timesteps that belong to them."""
    if isinstance(scheduler, DPMSolverSinglestepScheduler):
        # k-diffusion's DPM++ SDE calls the model at each σ and half-way (in log σ) to the next; to 0 only at the σ.
        # Diffusers' class does just that where each other of its steps lies half-way.
        between = np.sqrt(sigmas[:-1] * sigmas[1:])
        sigmas = np.append(np.stack([sigmas[:-1], between], axis=1).ravel(), sigmas[-1])
    timesteps = torch.from_numpy(_timesteps(sigmas, trained_sigmas(scheduler)).astype(np.float32))
    made = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
    if isinstance(scheduler, HeunDiscreteScheduler):
        made = torch.cat([made[:1], made[1:-1].repeat_interleave(2), made[-1:]])
        timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
    scheduler.sigmas, scheduler.timesteps = made, timesteps.to(scheduler.timesteps.device)
    if isinstance(scheduler, DPMSolverSinglestepScheduler):
        scheduler.num_inference_steps = len(timesteps)
        scheduler.order_list = scheduler.get_order_list(len(timesteps))


def _set_interpolating(scheduler: Any, set_timesteps: Callable[..., None], sigmas: Floats, device: Any) -> None:
    """Have a class that computes σs between those of its steps do so for these."""
    scheduler._convert_to_exponential = lambda **_: sigmas
    # By this flag it takes σs from that method, and timesteps with fractions from them.
    scheduler.register_to_config(use_exponential_sigmas=True)
    try:
        set_timesteps(len(sigmas), device=device)
    finally:
        scheduler.register_to_config(use_exponential_sigmas=False)
        del scheduler._convert_to_exponential
