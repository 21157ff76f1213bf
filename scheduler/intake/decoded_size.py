"""How much memory a picture takes to decode, told from its header: a WebP of thirty bytes may take a gigabyte.

Measured with Pillow 12 and its libraries: what is kept while a picture is decoded, beside its file.
"""

from PIL import Image

MAX_PIXELS = 64_000_000
#: A picture of that many pixels in colours, as Pillow keeps it, and half as much again.
MOST_BYTES = 384 * 2**20
#: Of a pixel: as Pillow keeps it, unless it has one value only.
_PIXEL_BYTES = 4
_ONE_VALUE = ("1", "L", "P")
#: Of a pixel of a WebP, beside that: the decoder's canvas, the one before it (of animations), and a copy.
_WEBP_BYTES = 12
#: Of a value of a JPEG that has several scans: all of its coefficients are kept until the last one.
_COEFFICIENT_BYTES = 2


def check_decoded_size(image: Image.Image, *, scans: int) -> None:
    """Raise ValueError if a picture, opened and not decoded yet, is larger than may be, or takes too much memory.

    Args:
        scans: of a JPEG, as `check_parts` counts them.
    """
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"{image.width}×{image.height} is {pixels / 1e6:.0f} megapixels; the maximum is {MAX_PIXELS / 1e6:.0f}"
        )
    most = int(MOST_BYTES / _bytes_of_pixel(image, scans=scans))
    if pixels > most:
        kind = f"{image.format} of several scans (progressive)" if scans > 1 else image.format
        raise ValueError(
            f"{image.width}×{image.height} is {pixels / 1e6:.0f} megapixels; the maximum of a {kind} "
            f"is {most / 1e6:.0f}, for the memory that it takes to decode; save it smaller, or as PNG"
        )


def _bytes_of_pixel(image: Image.Image, *, scans: int) -> float:
    kept = 1 if image.mode in _ONE_VALUE else _PIXEL_BYTES
    if image.format == "WEBP":
        return kept + _WEBP_BYTES
    if scans > 1:
        # (id, how often across, how often down, table) of each component, relative to the one that has most.
        sampling: list[tuple[int, int]] = [(across, down) for _, across, down, _ in getattr(image, "layer", [])]
        most = max((across for across, _ in sampling), default=1) * max((down for _, down in sampling), default=1)
        return kept + _COEFFICIENT_BYTES * sum(across * down for across, down in sampling) / max(most, 1)
    return kept
