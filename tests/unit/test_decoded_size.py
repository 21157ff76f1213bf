"""A picture that takes too much memory to decode is refused by its header alone."""

import io
import struct
from typing import Any

import pytest
from PIL import Image

from scheduler.intake.uploads import check_image


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP of one colour, in 28 bytes whatever its size is: five codes of one symbol, and no more."""
    # No transform, no cache, no other codes: three times 0. Then each code is simple (1), of one symbol, of one bit, 0.
    bits = sum(1 << (3 + 4 * n) for n in range(5))
    body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bits.to_bytes(3, "little")
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def jpeg_of(width: int, height: int, mode: str = "L", **told: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "JPEG", **told)
    made = bytearray(buffer.getvalue())
    # Its frame says how large it is; what follows is too short by far, so that only a header can be read.
    frame = made.index(b"\xff\xc2" if told.get("progressive") else b"\xff\xc0")
    made[frame + 5 : frame + 9] = struct.pack("!HH", height, width)
    return bytes(made)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (webp_of(8000, 8000), "64 megapixels; the maximum of a WEBP is 25"),
        (webp_of(16384, 5000), "82 megapixels; the maximum is 64"),
        (jpeg_of(8000, 8000, "RGB", progressive=True, subsampling=0), "of several scans (progressive) is 40"),
        (jpeg_of(8000, 8000, "RGB", progressive=True, subsampling=2), "of several scans (progressive) is 58"),
        (jpeg_of(7000, 7000, "CMYK", progressive=True), "of several scans (progressive) is 34"),
        (jpeg_of(9000, 8000, "RGB"), "72 megapixels; the maximum is 64"),
    ],
    ids=["WebP", "any", "progressive", "progressive, fewer colours", "progressive, CMYK", "JPEG"],
)
def test_what_takes_too_much_memory_to_decode_is_refused_by_its_header(made: bytes, said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are compared below
        check_image(made)
    assert said in str(refused.value)


def test_photos_of_today_pass_by_their_headers() -> None:
    # Cut off behind it: the header passed.
    for photo in (jpeg_of(8160, 6144, "RGB"), jpeg_of(8160, 6144, "RGB", progressive=True, subsampling=2)):
        with pytest.raises(ValueError, match="not a complete"):
            check_image(photo[:-20])


def test_a_picture_of_a_few_bytes_passes_when_it_is_small() -> None:
    check_image(webp_of(64, 48))
