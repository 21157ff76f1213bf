#!/usr/bin/env bash
# An image folder's `metadata.jsonl` is read by Arrow, which takes a text column for a time if every value in the file
# looks like one. So a column of strings comes back as datetimes from `datasets.load_dataset("imagefolder")`, and what
# type it has depends on which rows happen to be there: a label such as a lot number "2024-01-05" is text in one folder
# and a time in the next.
#
# Seen with datasets 5.2.0 and pyarrow 26.0.1:
#   all like dates: timestamp[s], datetime.datetime(2024, 1, 5, 0, 0)
#   one that is not: string, '2024-01-05'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0" "pyarrow==26.0.1" "pillow==13.*" 2>/dev/null
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$folder/venv/bin/python" - "$folder" <<'PY'
import json
import sys
from pathlib import Path

from datasets import load_dataset
from PIL import Image


def column(name, lots):
    place = Path(sys.argv[1], name)
    place.mkdir()
    lines = [json.dumps({"file_name": f"{n}.png", "lot": lot}) + "\n" for n, lot in enumerate(lots)]
    for n in range(len(lots)):
        Image.new("RGB", (8, 8)).save(place / f"{n}.png")
    (place / "metadata.jsonl").write_text("".join(lines))
    read = load_dataset("imagefolder", data_dir=str(place), split="train")
    return f"{read.features['lot'].dtype}, {read[0]['lot']!r}"


said = (
    f"all like dates: {column('dates', ['2024-01-05', '2024-01-06'])}\n"
    f"one that is not: {column('words', ['2024-01-05', 'A-17'])}"
)
print(said)
expected = "all like dates: timestamp[s], datetime.datetime(2024, 1, 5, 0, 0)\none that is not: string, '2024-01-05'"
sys.exit(said != expected)
PY
