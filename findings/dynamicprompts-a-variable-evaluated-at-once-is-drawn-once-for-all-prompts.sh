#!/usr/bin/env bash
# `${color=!{red|blue|green}}` draws a color and keeps it for the rest of the prompt. dynamicprompts' random sampler
# evaluates such variables when it begins with a template, not with a prompt: however many prompts are asked for, all
# have the first one's color. Without the exclamation mark each mention is drawn anew.
#
# Seen with dynamicprompts 0.31.0:
#   of 300 prompts, each with a color drawn from three: 1 color
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "dynamicprompts==0.31.*" 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

from dynamicprompts.generators import RandomPromptGenerator

found = set(RandomPromptGenerator(seed=1).generate("${color=!{red|blue|green}}a ${color} star", 300))
print(f"of 300 prompts, each with a color drawn from three: {len(found)} color{'s' * (len(found) != 1)}")
sys.exit(len(found) > 1)
PY
