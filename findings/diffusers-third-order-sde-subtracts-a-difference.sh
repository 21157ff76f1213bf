#!/usr/bin/env bash
# DPM-Solver++ of order 3 with noise (`DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=3)`) adds
# alpha * ((1 - e^-2h - 2h) / (2h)^2 - 1/2) times the second difference of the predictions. As in the solver without noise,
# and as k-diffusion's DPM++ 3M SDE has it, that weight must be alpha * (1/2 - (e^-2h - 1 + 2h) / (2h)^2), which vanishes
# with small steps. Diffusers' tends to -1: however short the steps, a whole second difference is taken off.
#
# Seen with diffusers 0.42.1:
#   weight of the second difference, times 1/alpha, with h = 0.001: without noise 0.000, with noise -1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "accelerate" 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import torch
from diffusers import DPMSolverMultistepScheduler


def weight(algorithm: str, h: float = 0.001) -> float:
    """Return by what the update multiplies the second difference, over alpha, in steps of h in log(alpha / sigma)."""
    scheduler = DPMSolverMultistepScheduler(algorithm_type=algorithm, solver_order=3)
    sigmas = torch.exp(-h * torch.arange(4, dtype=torch.float64))
    scheduler.sigmas, scheduler._step_index = sigmas, 2
    # Predictions with a second difference of 1 (in units of h) at the last one, where the others vanish: of f(r) =
    # r (r + 1) / 2 at r = 0, -1, -2, its slope at 0 is 1/2, whose own weight is taken off by the straight line r / 2.
    bent, straight = (0.0, 0.0, 1.0), (0.0, -0.5, -1.0)
    zero = torch.zeros(1, dtype=torch.float64)
    stepped = [
        scheduler.multistep_dpm_solver_third_order_update(
            [zero + one for one in reversed(values)], sample=zero, noise=zero
        )
        for values in (bent, straight)
    ]
    alpha, _ = scheduler._sigma_to_alpha_sigma_t(sigmas[3])
    # D2 is the second difference over r0 + r1 = 2.
    return float((stepped[0] - stepped[1]) / alpha * 2)


without, with_noise = weight("dpmsolver++"), weight("sde-dpmsolver++")
print(f"weight of the second difference, times 1/alpha, with h = 0.001: without noise {without:.3f}, with noise {with_noise:.3f}")
sys.exit(0 if abs(without) < 0.01 and with_noise < -0.9 else 1)
PY
