#!/usr/bin/env bash
# dynamicprompts 0.31: `{3::red|blue}` in a prompt draws red three times as often, and so do the lines `3::red` of a
# wildcard in YAML or JSON. The same line in a wildcard's .txt file is a word: the prompt then says "3::red".
#
# Seen with dynamicprompts 0.31.0, all prompts of `a __colour__ star`:
#   text: ['a 3::red star', 'a blue star']
#   yaml: ['a red star', 'a red star', 'a red star', 'a blue star']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "dynamicprompts==0.31.*" "pyyaml==6.*" 2>/dev/null
mkdir "$folder/text" "$folder/yaml"
printf '3::red\nblue\n' > "$folder/text/colour.txt"
printf 'colour:\n  - 3::red\n  - blue\n' > "$folder/yaml/colours.yaml"
"$folder/venv/bin/python" -W ignore - "$folder" <<'PY'
import sys
from pathlib import Path

from dynamicprompts.generators import CombinatorialPromptGenerator
from dynamicprompts.wildcards import WildcardManager


def prompts(folder):
    manager = WildcardManager(Path(sys.argv[1], folder))
    manager.sort_wildcards = False
    return CombinatorialPromptGenerator(manager).generate("a __colour__ star", 9)


said = f"text: {prompts('text')}\nyaml: {prompts('yaml')}"
print(said)
sys.exit(said != "text: ['a 3::red star', 'a blue star']\nyaml: ['a red star', 'a red star', 'a red star', 'a blue star']")
PY
