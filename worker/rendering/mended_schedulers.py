"""Schedulers of Diffusers that are wrong, or slow, in one of their methods."""

import math
from typing import Any

import diffusers
import numpy as np
import torch

#: Diffusers' modules are loaded when they are asked for, so that mypy does not see their classes.
_KDPM2: Any = diffusers.KDPM2DiscreteScheduler
_KDPM2Ancestral: Any = diffusers.KDPM2AncestralDiscreteScheduler
_Multistep: Any = diffusers.DPMSolverMultistepScheduler


class _InterpolatedAtOnce:
    """Find the timestep of a σ by one call of NumPy: by Diffusers' method, 1000 of them take half a second."""

    def _sigma_to_t(self, sigma: Any, log_sigmas: Any) -> float:
        logs = np.asarray(log_sigmas)
        return float(np.interp(math.log(max(float(sigma), 1e-10)), logs, np.arange(len(logs))))


class KDPM2DiscreteScheduler(_InterpolatedAtOnce, _KDPM2):  # type: ignore[misc]
    """Diffusers' class of this name, made sooner: it sets 1000 timesteps when it is made, and others afterwards."""


class KDPM2AncestralDiscreteScheduler(_InterpolatedAtOnce, _KDPM2Ancestral):  # type: ignore[misc]
    """Diffusers' class of this name, made sooner."""


class ThirdOrderSDEScheduler(_Multistep):  # type: ignore[misc]
    """Diffusers' multistep scheduler for `sde-dpmsolver++` of order 3, with a wrong sign put right.

    The second difference's weight is φ₃ = (e^-H − 1 + H) ÷ H² − ½ with H = 2h, subtracted, as in the solver without
    noise (arXiv:2211.01095) and k-diffusion's `sample_dpmpp_3m_sde`; it vanishes with small steps. Diffusers 0.42 adds
    −φ₃ − 1, so that a whole second difference too much is taken off at each step: worker/README.md has the finding.
    """

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[torch.Tensor], *given: Any, **named: Any
    ) -> torch.Tensor:
        stepped: torch.Tensor = super().multistep_dpm_solver_third_order_update(model_output_list, *given, **named)
        at = int(self.step_index or 0)
        levels = [self._sigma_to_alpha_sigma_t(self.sigmas[place]) for place in (at + 1, at, at - 1, at - 2)]
        lambda_t, lambda_0, lambda_1, lambda_2 = (alpha.log() - sigma.log() for alpha, sigma in levels)
        h = lambda_t - lambda_0
        r0, r1 = (lambda_0 - lambda_1) / h, (lambda_1 - lambda_2) / h
        last, before, earlier = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        second = ((last - before) / r0 - (before - earlier) / r1) / (r0 + r1)
        mended: torch.Tensor = stepped + levels[0][0] * second
        return mended
