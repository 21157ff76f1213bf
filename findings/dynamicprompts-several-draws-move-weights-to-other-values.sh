#!/usr/bin/env bash
# `{2$$1::red|8::blue|1::green}` draws two of three without replacement. dynamicprompts' `choose_without_replacement` takes
# the chosen value out of its list of values, but out of the list of weights the first that is equal to its weight. Once
# green is drawn, red's weight is gone: red has blue's eight, blue has green's one, and follows once in nine instead of
# eight times.
#
# Seen with dynamicprompts 0.31.0:
#   of the draws that begin with green, blue is second in 10%, not in 89%
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "dynamicprompts==0.31.*" 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys
from collections import Counter
from random import Random

from dynamicprompts.enums import SamplingMethod
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager

context = SamplingContext(
    default_sampling_method=SamplingMethod.RANDOM, wildcard_manager=WildcardManager(), rand=Random(1)
)
drawn = [str(prompt).split(",") for prompt in context.sample_prompts("{2$$1::red|8::blue|1::green}", 20_000)]
second = Counter(two for one, two in drawn if one == "green")
share = second["blue"] / second.total()
print(f"of the draws that begin with green, blue is second in {share:.0%}, not in 89%")
sys.exit(share > 0.5)
PY
