"""A hash of what a picture shows, whatever its file says about how it was made."""

import hashlib
import io

from PIL import Image


def pixels_sha256(picture: Image.Image) -> str:
    """Return the SHA-256 of a picture's size and pixels: `64x48`, a line feed, then its RGB bytes, row by row."""
    width, height = picture.size
    return hashlib.sha256(f"{width}x{height}\n".encode() + picture.convert("RGB").tobytes()).hexdigest()


def pixels_sha256_of(data: bytes) -> str:
    """Return the same of a picture's file."""
    with Image.open(io.BytesIO(data)) as picture:
        return pixels_sha256(picture)
