"""The samplers of k-diffusion written down once more, each as its paper or its source defines it, for comparison.

A model here is a function of a picture with noise, x = x₀ + σn, and σ, which returns the picture x₀ that it sees.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from scipy import integrate

Denoiser = Callable[[torch.Tensor, float], torch.Tensor]
Noise = Iterator[torch.Tensor]
#: Order of linear multistep in k-diffusion.
_LMS_ORDER = 4


def _ancestral(start: float, end: float) -> tuple[float, float]:
    """Return to which σ to step, and how much noise to add there, to arrive at the noise of `end`."""
    added = min(end, math.sqrt(end**2 * (start**2 - end**2) / start**2))
    return math.sqrt(end**2 - added**2), added


def euler(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], _noise: Noise) -> torch.Tensor:
    for start, end in pairwise(sigmas):
        x = x + (x - model(x, start)) / start * (end - start)
    return x


def euler_ancestral(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    for start, end in pairwise(sigmas):
        down, added = _ancestral(start, end)
        x = x + (x - model(x, start)) / start * (down - start) + added * next(noise)
    return x


def heun(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], _noise: Noise) -> torch.Tensor:
    for start, end in pairwise(sigmas):
        slope = (x - model(x, start)) / start
        guess = x + slope * (end - start)
        if end:
            slope = (slope + (guess - model(guess, end)) / end) / 2
        x = x + slope * (end - start)
    return x


def dpm2(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    return _midpoint(model, x, sigmas, noise, ancestral=False)


def dpm2_ancestral(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    return _midpoint(model, x, sigmas, noise, ancestral=True)


def _midpoint(
    model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise, *, ancestral: bool
) -> torch.Tensor:
    for start, end in pairwise(sigmas):
        down, added = _ancestral(start, end) if ancestral else (end, 0.0)
        slope, middle = (x - model(x, start)) / start, math.sqrt(start * down)
        if middle:
            guess = x + slope * (middle - start)
            slope = (guess - model(guess, middle)) / middle
        x = x + slope * (down - start)
        if added:
            x = x + added * next(noise)
    return x


def lms(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], _noise: Noise) -> torch.Tensor:
    slopes: list[torch.Tensor] = []
    for at, (start, end) in enumerate(pairwise(sigmas)):
        slopes = [(x - model(x, start)) / start, *slopes][:_LMS_ORDER]
        known = [sigmas[at - back] for back in range(len(slopes))]

        def lagrange(sigma: float, of: int, known: list[float] = known) -> float:
            others = [one for back, one in enumerate(known) if back != of]
            return math.prod((sigma - one) / (known[of] - one) for one in others)

        weights = [integrate.quad(lagrange, start, end, args=(of,), epsrel=1e-6)[0] for of in range(len(known))]
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


def dpmpp_2m(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], _noise: Noise) -> torch.Tensor:
    before: tuple[torch.Tensor, float] | None = None
    for start, end in pairwise(sigmas):
        seen = model(x, start)
        if not end:
            return seen
        h = math.log(start / end)
        used = seen if before is None else seen + (seen - before[0]) * h / before[1] / 2
        x = end / start * x - math.expm1(-h) * used
        before = seen, h
    return x


def dpmpp_2m_sde(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    return _second_order_sde(model, x, sigmas, noise, heun=False)


def dpmpp_2m_sde_heun(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    return _second_order_sde(model, x, sigmas, noise, heun=True)


def _second_order_sde(
    model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise, *, heun: bool
) -> torch.Tensor:
    before: tuple[torch.Tensor, float] | None = None
    for start, end in pairwise(sigmas):
        seen = model(x, start)
        if not end:
            return seen
        h = math.log(start / end)
        share = -math.expm1(-2 * h)
        x = end / start * math.exp(-h) * x + share * seen
        if before is not None:
            weight = 1 - share / (2 * h) if heun else share / 2
            x = x + weight * h / before[1] * (seen - before[0])
        x = x + end * math.sqrt(share) * next(noise)
        before = seen, h
    return x


def dpmpp_3m_sde(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    seen_before: list[torch.Tensor] = []
    lengths: list[float] = []
    for start, end in pairwise(sigmas):
        seen = model(x, start)
        if not end:
            return seen
        h = math.log(start / end)
        twice = 2 * h
        x = math.exp(-twice) * x - math.expm1(-twice) * seen
        phi_2 = math.expm1(-twice) / twice + 1
        if lengths:
            r0 = lengths[0] / h
            first = (seen - seen_before[0]) / r0
            if len(lengths) > 1:
                r1 = lengths[1] / h
                other = (seen_before[0] - seen_before[1]) / r1
                second = (first - other) / (r0 + r1)
                x = x - (phi_2 / twice - 0.5) * second
                first = first + (first - other) * r0 / (r0 + r1)
            x = x + phi_2 * first
        x = x + end * math.sqrt(-math.expm1(-twice)) * next(noise)
        seen_before, lengths = [seen, *seen_before][:2], [h, *lengths][:2]
    return x


def dpmpp_sde(model: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> torch.Tensor:
    for start, end in pairwise(sigmas):
        seen = model(x, start)
        if not end:
            return seen
        middle = math.sqrt(start * end)
        down, added = _ancestral(start, middle)
        between = down / start * x + (1 - down / start) * seen + added * next(noise)
        down, added = _ancestral(start, end)
        x = down / start * x + (1 - down / start) * model(between, middle) + added * next(noise)
    return x


#: Solver → its reference.
REFERENCES: Mapping[str, Callable[[Denoiser, torch.Tensor, Sequence[float], Noise], torch.Tensor]] = {
    "euler": euler,
    "euler a": euler_ancestral,
    "heun": heun,
    "lms": lms,
    "dpm2": dpm2,
    "dpm2 a": dpm2_ancestral,
    "dpm++ 2m": dpmpp_2m,
    "dpm++ 2m sde": dpmpp_2m_sde,
    "dpm++ 2m sde heun": dpmpp_2m_sde_heun,
    "dpm++ 3m sde": dpmpp_3m_sde,
    "dpm++ sde": dpmpp_sde,
}

#: Every solver once with a schedule that has every number of steps, for tests that have no time for all pairs.
ANY_STEPS = (
    *("euler karras", "euler a sgm uniform", "heun exponential", "lms uniform", "dpm2 karras", "dpm2 a simple"),
    *("dpm++ 2m beta", "dpm++ 2m sde exponential", "dpm++ 2m sde heun beta timesteps", "dpm++ 3m sde trailing"),
    "dpm++ sde karras",
)
#: The same and the other schedules, which take two or three steps.
PAIRS = (*ANY_STEPS, "dpm++ 2m kl optimal", "euler align your steps", "euler ddim uniform")
