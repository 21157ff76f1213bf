#!/usr/bin/env bash
# Diffusers 0.42, `timestep_spacing="trailing"` (what SDXL-Turbo, Lightning and zero-terminal-SNR models are configured
# with): timesteps are `round(arange(1000, 0, -1000 / n)) - 1`, and floating point lets the range run one element too
# far for some n. `set_timesteps(61)` then has 62 timesteps, the last of them -1, which no model was trained on: the
# picture is noise. 60 and 62 steps are fine.
#
# Seen with diffusers 0.42.1, torch 2.13.0, of 1 to 1000 steps:
#   DDIMScheduler: 62 counts give one timestep too many, the first 61, 103, 121, 122, 201; the last timestep is -1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.*" 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

from diffusers import DDIMScheduler

wrong, last = [], set()
for steps in range(1, 1001):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    if len(scheduler.timesteps) != steps:
        wrong.append(steps)
        last.add(int(scheduler.timesteps[-1]))
said = (
    f"DDIMScheduler: {len(wrong)} counts give one timestep too many, the first {', '.join(map(str, wrong[:5]))}; "
    f"the last timestep is {', '.join(map(str, sorted(last)))}"
)
print(said)
sys.exit(
    said
    != "DDIMScheduler: 62 counts give one timestep too many, the first 61, 103, 121, 122, 201; the last timestep is -1"
)
PY
