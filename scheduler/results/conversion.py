"""Stored pictures as JPEG and WebP, with all that their PNG says of how they were made.

What galleries read stands where the web UI writes it, in EXIF's `UserComment`; the recipe, in XMP
(`storage.spec.carried_recipe`).
"""

import io
import json
import struct
from typing import Literal

from PIL import ExifTags, Image

from storage.objects.pixels import is_transparent, pixels_sha256, without_alpha
from storage.spec.carried_recipe import packet
from storage.spec.infotext import without_prompts

#: Bytes of EXIF, and of XMP, in a JPEG: a segment has 65,533, some of which name it. WebP's chunks have 2³².
_MOST_EXIF, _MOST_XMP = 65_000, 65_500
#: Types of values in EXIF.
_LONG, _UNDEFINED = 4, 7


def converted(picture: Image.Image, form: Literal["jpeg", "webp"], quality: int) -> bytes:
    """Return a stored picture as JPEG or WebP; a JPEG of one that is transparent is over white.

    In a JPEG, prompts of more than 32,000 characters are left out of what galleries read, and a recipe of more than
    65 kB altogether; what galleries read then says so.
    """
    text, recipe = (str(picture.info.get(key, "")) for key in ("parameters", "diffusion-farm"))
    pixels = picture.convert("RGBA") if form == "webp" and is_transparent(picture) else without_alpha(picture)
    xmp = packet(_with_pixels(recipe, pixels)) if recipe else b""
    left_out: list[str] = []
    if form == "jpeg":
        if len(xmp) > _MOST_XMP:
            xmp, left_out = b"", [*left_out, "the recipe"]
        if len(text.encode("utf-16-be")) > _MOST_EXIF:
            text, left_out = without_prompts(text), [*left_out, "the prompts"]
        if left_out:
            text += f', Left out: "{" and ".join(left_out)}, longer than a JPEG can hold; the PNG has all"'
    said: dict[str, bytes] = ({"exif": _exif(text)} if text else {}) | ({"xmp": xmp} if xmp else {})
    buffer = io.BytesIO()
    pixels.save(buffer, form.upper(), quality=quality, **said)
    return buffer.getvalue()


def _exif(comment: str) -> bytes:
    """Return EXIF that has a comment alone, in UTF-16 and big-endian as the web UI writes it.

    By hand: Pillow writes a comment as a list of numbers (BYTE), which readers that know EXIF take for no text; it must
    be UNDEFINED (EXIF 2.32, 4.6.5).
    """
    value = b"UNICODE\0" + comment.encode("utf-16-be")
    # Two directories of one entry each, of 18 bytes: the first says where the second is, that where the comment is.
    entry = struct.Struct(">HHHIII")
    first = entry.pack(1, ExifTags.IFD.Exif, _LONG, 1, 8 + entry.size, 0)
    second = entry.pack(1, ExifTags.Base.UserComment, _UNDEFINED, len(value), 8 + 2 * entry.size, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + second + value


def _with_pixels(recipe: str, pixels: Image.Image) -> str:
    """Return a recipe that tells, too, which pixels it made: a converted picture's are others."""
    return json.dumps(
        {**json.loads(recipe), "pixels_sha256": pixels_sha256(pixels)}, sort_keys=True, ensure_ascii=False
    )
