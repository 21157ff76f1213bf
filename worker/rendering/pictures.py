"""Pictures in and out: files that callers brought along, and tensors that a pipeline made."""

import io

import torch
from PIL import Image, ImageOps


def read_image(data: bytes) -> Image.Image:
    """Decode a conditioning image: upright, RGB."""
    image: Image.Image = Image.open(io.BytesIO(data))
    # In place: each copy of a large one is a quarter of a gigabyte.
    ImageOps.exif_transpose(image, in_place=True)
    return image.convert("RGB")


def to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """Convert a (batch, channel, height, width) tensor in 0…1, to bytes while on the device: a quarter to copy."""
    rounded = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(picture) for picture in rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
