"""What sheets of pictures are drawn with: colours, pictures that fit, text that is wrapped."""

import textwrap
from collections.abc import Sequence

from PIL import Image

from scheduler.results.fonts import Font

PAPER, INK, PALE, MARK = (250, 250, 248), (30, 30, 30), (120, 120, 120), (176, 0, 32)
#: More of a text is not to be seen.
_MEASURED = 200


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longest side is at most so many pixels.

    Small pictures are magnified by whole factors, so that every pixel stays sharp.
    """
    scale = side / max(picture.size)
    if scale >= 1:
        whole = int(scale)
        return picture.resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def wrapped(text: str, font: Font, width: int, *, most: int) -> Sequence[str]:
    """Return a text wrapped into lines that fit a width in pixels, at most so many."""
    # Letters of other scripts are wider.
    of_letter = max(font.getlength("n"), font.getlength(text[:_MEASURED]) / max(1, len(text[:_MEASURED])))
    letters = max(1, int(width / of_letter))
    return textwrap.wrap(" ".join(text.split()), width=letters, max_lines=most, placeholder=" …"[:letters])
