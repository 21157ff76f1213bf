"""The texts in a picture's file: PNG's text chunks, the EXIF and XMP of JPEG and WebP. Whoever wrote them.

Pixels are decoded only where nothing stands before them.
"""

import json
import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, iTXt

from scheduler.intake.stealth_text import stealth_text
from storage.errors import InvalidInput
from storage.spec.carried_recipe import recipe_in

#: Where the farm writes a picture's recipe.
OURS = "diffusion-farm"
_KINDS = ("PNG", "JPEG", "WEBP")
#: Characters of all texts of a file: a graph of ComfyUI's has some hundred thousand.
_MOST_CHARACTERS = 16_000_000


def texts_in(path: Path) -> dict[str, str]:
    """Return the texts in a picture's file by their keys. Raises InvalidInput."""
    try:
        # Pillow warns of damaged EXIF, which is as good as none.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_KINDS) as picture:
            found = _texts(picture.info) | _exif(picture)
            if not found and isinstance(picture, PngImageFile):
                # Some programs write them behind the pixels.
                found = _texts(picture.text)
            if not found and (text := stealth_text(picture)):
                found = _within_pixels(text)
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from None
    except OSError as error:
        what = error.strerror or "not a PNG, JPEG or WebP picture, or a damaged one"
        raise InvalidInput(f"{path}: {what}") from None
    except (ValueError, SyntaxError) as error:
        # Of a text that unpacks to more than it should, and of a damaged file.
        raise InvalidInput(f"{path}: cannot be read: {error}") from None
    if (characters := sum(map(len, found.values()))) > _MOST_CHARACTERS:
        raise InvalidInput(f"{path}: has {characters:,} characters of text; at most {_MOST_CHARACTERS:,} are read")
    return found


def _texts(said: dict[Any, Any]) -> dict[str, str]:
    """Return texts by their keys, and our recipe in XMP by its own."""
    found = {str(key): _mended(text) for key, text in said.items() if isinstance(text, str)}
    xmp = said.get("xmp")
    if isinstance(xmp, bytes) and (recipe := recipe_in(xmp)) is not None:
        found.setdefault(OURS, recipe)
    return found


def _within_pixels(text: str) -> dict[str, str]:
    """Return what stands in a picture's pixels: NovelAI's chunks as JSON, or the web UI's text."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and "Comment" in said:
        return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
    return {"parameters": text}


def _mended(text: str) -> str:
    """Return a chunk's text as it was meant: tEXt is Latin-1, and many programs write UTF-8 into it all the same."""
    if isinstance(text, iTXt) or text.isascii():
        return str(text)
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _exif(picture: Image.Image) -> dict[str, str]:
    """Return what EXIF says: the web UI's comment as `parameters`, ComfyUI's `prompt:…` and `workflow:…`."""
    found: dict[str, str] = {}
    try:
        exif = picture.getexif()
        within = exif.get_ifd(ExifTags.IFD.Exif)
        # Fooocus writes it into the first directory, where EXIF has none.
        comment: Any = within.get(ExifTags.Base.UserComment) or exif.get(ExifTags.Base.UserComment)
        others = [exif.get(tag) for tag in (ExifTags.Base.Model, ExifTags.Base.Make, ExifTags.Base.ImageDescription)]
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        # Damaged EXIF lets Pillow raise nearly anything; it is as good as none.
        return found
    if comment and (text := _comment(comment)):
        found["parameters"] = text
    for said in others:
        key, separator, rest = str(said or "").partition(":")
        if separator and key.lower() in ("prompt", "workflow"):
            found.setdefault(key.lower(), rest.strip())
    return found


def _comment(comment: Any) -> str:
    """Return the text of EXIF's UserComment, whose first eight bytes name its encoding."""
    if isinstance(comment, str):
        return comment.strip("\0 ")
    if not isinstance(comment, bytes):
        return ""
    kind, text = comment[:8].rstrip(b"\0 "), comment[8:]
    if kind == b"UNICODE":
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return text.decode("utf-16", errors="replace").strip("\0 ")
        # EXIF says that its own byte order holds, and most write big-endian whatever that is. Of letters in it each
        # first byte is 0, and settings are letters.
        little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", errors="replace").strip("\0 ")
    named = kind in (b"ASCII", b"JIS", b"")
    return (text if named else comment).decode(errors="replace").strip("\0 ")
