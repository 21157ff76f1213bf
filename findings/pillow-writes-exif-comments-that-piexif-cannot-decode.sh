#!/usr/bin/env bash
# EXIF's UserComment (0x9286) is of the type UNDEFINED (7): eight bytes that name its encoding, then the text. Given these
# bytes, Pillow writes them as BYTE (1), for it chooses the type by the value where it knows none for the tag. piexif,
# by which the AUTOMATIC1111 web UI reads the settings of a JPEG or WebP, gives BYTE back as a tuple of numbers, in which
# its own `UserComment.load` finds no encoding: what was written according to the rules cannot be read.
#
# Seen with Pillow 13.0.0, piexif 1.1.3:
#   written as BYTE, read by piexif: ValueError: unable to determine appropriate encoding
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pillow==13.0.0" "piexif==1.1.3" 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import piexif
import piexif.helper
from PIL import Image

EXIF, COMMENT = 0x8769, 0x9286
KIND = {1: "BYTE", 7: "UNDEFINED"}
text = "UNICODE\0".encode() + "a red star\nSteps: 20".encode("utf-16-be")
file = io.BytesIO()
image = Image.new("RGB", (8, 8))
exif = image.getexif()
exif.get_ifd(EXIF)[COMMENT] = text
image.save(file, "JPEG", exif=exif)
raw = file.getvalue()
at = raw.index(COMMENT.to_bytes(2, "big") if b"MM\0*" in raw else COMMENT.to_bytes(2, "little"))
order = "big" if b"MM\0*" in raw else "little"
kind = KIND[int.from_bytes(raw[at + 2 : at + 4], order)]
try:
    read = piexif.helper.UserComment.load(piexif.load(raw)["Exif"][COMMENT])
except Exception as error:
    read = f"{type(error).__name__}: {error}"
said = f"written as {kind}, read by piexif: {read}"
print(said)
sys.exit(said != "written as BYTE, read by piexif: ValueError: unable to determine appropriate encoding")
PY
