"""Find a font that draws a text: the one that comes with Pillow, or one of this machine's."""

import shutil
import subprocess
import unicodedata
from collections.abc import Collection
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

#: A code point that no font has: it is drawn as every missing one is.
_IN_NO_FONT = "\U0010ffff"
#: Spaces, and what changes others without being drawn itself.
_UNDRAWN = {"Zs", "Zl", "Zp", "Cc", "Cf", "Mn"}
_FONTCONFIG_SECONDS = 5


def font_for(text: str, size: int) -> tuple[Font, frozenset[str]]:
    """Return the font that draws most of a text, and the characters that it lacks."""
    own = _own(size)
    missing = missing_in(own, text)
    if not missing or (path := _installed(missing)) is None:
        return own, missing
    other = _loaded(path, size)
    still = missing if other is None else missing_in(other, text)
    return (own, missing) if other is None or len(still) >= len(missing) else (other, still)


def missing_in(font: Font, text: str) -> frozenset[str]:
    """Return the characters of a text that a font draws as it draws missing ones."""
    box = _drawn(font, _IN_NO_FONT)
    drawn = {character for character in text if unicodedata.category(character) not in _UNDRAWN}
    return frozenset(character for character in drawn if _drawn(font, character) == box)


def _drawn(font: Font, character: str) -> tuple[object, ...]:
    mask = font.getmask(character)
    return (*mask.size, bytes(mask))


@lru_cache
def _own(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache
def _loaded(path: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(path, size)
    except OSError:
        return None  # of a format that FreeType does not read


@lru_cache
def _installed(characters: Collection[str]) -> str | None:
    """Return the file of the installed font that has most of these characters; None without fontconfig."""
    fontconfig = shutil.which("fc-match")
    if fontconfig is None:
        return None
    charset = " ".join(f"{ord(character):x}" for character in sorted(characters))
    try:
        found = subprocess.run(  # noqa: S603 - our own words, and code points
            [fontconfig, "--format", "%{file}", f":charset={charset}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_FONTCONFIG_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout or None
