"""A hash of what a picture shows, whatever its file says about how it was made."""

import hashlib
import io

from PIL import Image


def pixels_sha256(picture: Image.Image) -> str:
    """Return the SHA-256 of a picture's size and pixels: `64x48`, a line feed, then its RGB bytes, row by row.

    Where something of it is transparent, RGBA bytes.
    """
    width, height = picture.size
    pixels = picture.convert("RGBA" if is_transparent(picture) else "RGB")
    return hashlib.sha256(f"{width}x{height}\n".encode() + pixels.tobytes()).hexdigest()


def is_transparent(picture: Image.Image) -> bool:
    """Tell whether any pixel of a picture is transparent, if only a little."""
    return picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def without_alpha(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, over white where it is transparent: there its own colours are of nothing."""
    if not is_transparent(picture):
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def pixels_sha256_of(data: bytes) -> str:
    """Return the same of a picture's file."""
    with Image.open(io.BytesIO(data)) as picture:
        return pixels_sha256(picture)
