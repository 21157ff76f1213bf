#!/usr/bin/env bash
# Compel reads `(red dress)1.4` as two words with a weight. With a dash, a plus or an equals sign standing alone in the
# group, as in `(red - white dress)1.4`, its parser gives the group up without a word: parentheses and number go to the
# text encoder as letters, and the weight is lost; groups beside it keep theirs. The same with a lone quotation mark.
#
# Seen with Compel 2.5.1: fragments and their weights
#   a (red white)1.4 dress: a 1, red white 1.4, dress 1
#   a (red-white)1.4 dress: a 1, red-white 1.4, dress 1
#   a (red - white)1.4 dress: a (red - white)1.4 dress 1
#   a (red = white)1.4 dress: a (red = white)1.4 dress 1
#   a (5" wide)1.4 dress: a (5" wide)1.4 dress 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "compel==2.5.1" 2>/dev/null
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import sys

from compel.prompt_parser import PromptParser

PROMPTS = ("(red white)1.4", "(red-white)1.4", "(red - white)1.4", "(red = white)1.4", '(5" wide)1.4')
EXPECTED = """\
a (red white)1.4 dress: a 1, red white 1.4, dress 1
a (red-white)1.4 dress: a 1, red-white 1.4, dress 1
a (red - white)1.4 dress: a (red - white)1.4 dress 1
a (red = white)1.4 dress: a (red = white)1.4 dress 1
a (5" wide)1.4 dress: a (5" wide)1.4 dress 1"""
lines = []
for group in PROMPTS:
    prompt = f"a {group} dress"
    [flat] = PromptParser().parse_conjunction(prompt).prompts
    lines.append(f"{prompt}: " + ", ".join(f"{part.text} {part.weight:g}" for part in flat.children))
print("\n".join(lines))
sys.exit("\n".join(lines) != EXPECTED)
PY
