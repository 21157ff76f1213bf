"""A picture's file is refused for its number of parts, or scans, before a reader keeps an object for each."""

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from scheduler.intake.picture_parts import MOST_PARTS, MOST_SCANS
from scheduler.intake.uploads import check_image


def picture(form: str, **told: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, form, **told)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def png_with(parts: bytes) -> bytes:
    made = picture("PNG")
    return made[:33] + parts + made[33:]


def jpeg_with(segments: bytes) -> bytes:
    made = picture("JPEG")
    return made[:2] + segments + made[2:]


def webp_with(chunks: bytes) -> bytes:
    body = picture("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")[12:] + chunks
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


TOO_MANY: dict[str, Callable[[], bytes]] = {
    "PNG, private": lambda: png_with(chunk(b"prIv") * MOST_PARTS),
    "PNG, texts": lambda: png_with(b"".join(chunk(b"tEXt", b"%d\0" % n) for n in range(MOST_PARTS))),
    "JPEG, segments": lambda: jpeg_with(b"\xff\xeb\0\x02" * MOST_PARTS),
    "JPEG, comments": lambda: jpeg_with(b"\xff\xfe\0\x02" * MOST_PARTS),
    "WebP": lambda: webp_with(b"ABCD\0\0\0\0" * MOST_PARTS),
}


@pytest.mark.parametrize("made", TOO_MANY.values(), ids=TOO_MANY)
def test_a_picture_of_very_many_parts_is_refused(made: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError, match="a picture of more than 100,000 parts; save it again"):
        check_image(made())


def test_a_progressive_jpeg_of_very_many_scans_is_refused() -> None:
    made = picture("JPEG", progressive=True)
    last = made[made.rindex(b"\xff\xda") : -2]
    check_image(made[:-2] + last * 50 + b"\xff\xd9")
    with pytest.raises(ValueError, match="a progressive JPEG of more than 100 scans"):
        check_image(made[:-2] + last * MOST_SCANS + b"\xff\xd9")


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: png_with(chunk(b"prIv") * 1000), id="PNG"),
        pytest.param(lambda: jpeg_with((b"\xff\xe1\x40\x02" + b"\xff\xda" * 0x2000) * 20), id="JPEG with previews"),
        pytest.param(lambda: webp_with(b"ABCD\x01\0\0\0ab" * 1000), id="WebP"),
        pytest.param(lambda: picture("JPEG", progressive=True, quality=100), id="progressive"),
        pytest.param(lambda: picture("WEBP", lossless=True), id="lossless"),
    ],
)
def test_pictures_as_programs_write_them_pass(made: Callable[[], bytes]) -> None:
    check_image(made())
