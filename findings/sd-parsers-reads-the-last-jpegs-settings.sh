#!/usr/bin/env bash
# sd-parsers remembers the settings of the last JPEG it read under that picture's address in memory (`id(image)`). A
# picture that is closed and freed leaves its address to the next one, which is then said to be made with the settings
# of the first: another prompt, another seed, and no error. Reading a folder of JPEGs in a loop is what brings it about.
# Who reads many pictures keeps the last one alive while the next one is opened.
#
# Seen with sd-parsers 0.6, Pillow 13.0.0: the second JPEG's text says "a blue circle"
#   read while the first one is alive: a blue circle
#   read at the address of the first one: a red star
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "sd-parsers==0.6" "pillow==13.0.0" 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
import io
import sys

from PIL import ExifTags, Image
from sd_parsers import ParserManager


def jpeg(prompt):
    text = f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Model: m"
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "JPEG", exif=exif)
    return made.getvalue()


def prompt_of(image):
    [sampler] = ParserManager().parse(image).samplers
    return sampler.prompts[0].value


STAR, CIRCLE = jpeg("a red star"), jpeg("a blue circle")
first = Image.open(io.BytesIO(STAR))
prompt_of(first)
alive = prompt_of(Image.open(io.BytesIO(CIRCLE)))
del first

again = "no picture came to the address of another one"
for _ in range(1000):
    first = Image.open(io.BytesIO(STAR))
    prompt_of(first)
    address = id(first)
    del first
    later = [Image.open(io.BytesIO(CIRCLE)) for _ in range(100)]
    if there := [image for image in later if id(image) == address]:
        again = prompt_of(there[0])
        break
said = f"read while the first one is alive: {alive}\nread at the address of the first one: {again}"
print(said)
sys.exit(said != "read while the first one is alive: a blue circle\nread at the address of the first one: a red star")
PY
