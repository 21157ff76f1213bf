"""Where texts stand in pictures' files: kinds of chunks, byte orders, behind and within pixels; damaged files."""

import gzip
import io
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from scheduler.intake.picture_files import read_picture
from scheduler.intake.picture_texts import texts_in
from scheduler.results.conversion import converted
from storage.errors import InvalidInput
from tests.unit.test_picture_files import INFOTEXT, RECIPE, SPEC, png, with_exif
from worker.rendering.simulated import draw
from worker.serving.encode import to_png

TEXT = INFOTEXT.replace("cat", "caña ☆ 星")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def with_chunk(path: Path, made: bytes, *, behind: bool = False) -> Path:
    """Write a small PNG with a chunk before its pixels, or behind them."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    path.write_bytes(data[:at] + made + data[at:])
    return path


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"tEXt", b"parameters\0" + INFOTEXT.encode()),
        # Latin-1 by the format; many write UTF-8.
        (b"tEXt", b"parameters\0" + TEXT.encode()),
        (b"tEXt", b"parameters\0" + TEXT.replace("☆ 星", "").encode("latin-1")),
        (b"zTXt", b"parameters\0\0" + zlib.compress(INFOTEXT.encode())),
        (b"iTXt", b"parameters\0\0\0\0\0" + TEXT.encode()),
        (b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(TEXT.encode())),
    ],
    ids=["tEXt", "tEXt in UTF-8", "tEXt in Latin-1", "zTXt", "iTXt", "packed iTXt"],
)
def test_text_is_found_in_every_kind_of_chunk(tmp_path: Path, kind: bytes, content: bytes, behind: bool) -> None:
    path = with_chunk(tmp_path / "a.png", chunk(kind, content), behind=behind)
    found = texts_in(path)["parameters"]
    assert found in (INFOTEXT, TEXT, TEXT.replace("☆ 星", ""))
    assert read_picture(path).request.loras == {"ink": 0.5}


def test_letters_that_only_look_like_utf8_stay_what_they_are(tmp_path: Path) -> None:
    path = with_chunk(tmp_path / "a.png", chunk(b"iTXt", b"parameters\0\0\0\0\0" + "a Ã©\nSteps: 2, Seed: 1".encode()))
    assert texts_in(path)["parameters"].startswith("a Ã©")


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + TEXT.encode("utf-16-be"),
        b"UNICODE\0" + TEXT.encode("utf-16-le"),
        b"UNICODE\0\xff\xfe" + TEXT.encode("utf-16-le"),
        b"UNICODE\0\xfe\xff" + TEXT.encode("utf-16-be"),
        b"UNICODE " + TEXT.encode("utf-16-be"),
        b"ASCII\0\0\0" + TEXT.encode(),
        b"\0" * 8 + TEXT.encode(),
        TEXT.encode(),
    ],
    ids=["BE", "LE", "LE with a mark", "BE with a mark", "padded", "ASCII", "undefined", "bare"],
)
def test_comments_are_read_in_any_byte_order_whatever_the_files_own(tmp_path: Path, order: str, comment: bytes) -> None:
    endian = ">" if order == "MM" else "<"
    tiff = order.encode() + struct.pack(f"{endian}HI", 42, 8)
    first = struct.pack(f"{endian}HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(f"{endian}HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0" + tiff + first + second + comment)
    assert texts_in(path)["parameters"] == TEXT
    assert read_picture(path).request.seed == 5


def test_comfyui_writes_into_either_of_several_tags(tmp_path: Path) -> None:
    for name, tags in (("a.webp", {"Make": "Prompt: {}"}), ("b.jpg", {"ImageDescription": "Workflow:{}"})):
        [found] = texts_in(with_exif(tmp_path / name, **tags)).values()
        assert found == "{}"


def test_fooocus_writes_into_the_directory_where_there_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.UserComment], exif[ExifTags.Base.Software] = (
        TEXT.replace("☆ 星", "").replace("ñ", "n"),
        "Fooocus",
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").request.seed == 5


# -- within the pixels -------------------------------------------------------------------------------------------


def stealthy(text: str, mark: str, mode: str) -> Image.Image:
    """Return a picture with a text in its lowest bits, written one by one as its source says."""
    data = gzip.compress(text.encode()) if mark.endswith("comp") else text.encode()
    whole = mark.encode() + struct.pack(">I", 8 * len(data)) + data
    bits = [byte >> shift & 1 for byte in whole for shift in range(7, -1, -1)]
    picture = Image.new(mode, (96, 64), (200, 100, 50, 254)[: len(mode)])
    each = 1 if "png" in mark else 3
    for number in range(0, len(bits), each):
        place = (number // each // 64, number // each % 64)
        pixel: Any = list(picture.getpixel(place))  # type: ignore[arg-type]
        for offset, bit in enumerate(bits[number : number + each]):
            at = 3 if each == 1 else offset
            pixel[at] = pixel[at] & 254 | bit
        picture.putpixel(place, tuple(pixel))
    return picture


@pytest.mark.parametrize(
    ("mark", "mode"),
    [("stealth_pngcomp", "RGBA"), ("stealth_pnginfo", "RGBA"), ("stealth_rgbcomp", "RGB"), ("stealth_rgbinfo", "RGBA")],
)
def test_text_within_the_pixels_is_found(tmp_path: Path, mark: str, mode: str) -> None:
    stealthy(TEXT, mark, mode).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").request.seed == 5


def test_so_is_novelais(tmp_path: Path) -> None:
    comment = json.dumps({"prompt": "a cat", "uc": "b", "steps": 28, "scale": 5, "seed": 7, "sampler": "k_euler"})
    stealthy(json.dumps({"Description": "a cat", "Comment": comment}), "stealth_pngcomp", "RGBA").save(
        tmp_path / "a.png"
    )
    assert read_picture(tmp_path / "a.png").program == "NovelAI"


@pytest.mark.parametrize("data", [b"stealth_pngcomp" + b"\xff" * 8, b"stealth_pngcomp\0\0\0\x40" + b"no gzip.", b""])
def test_marks_without_a_text_are_none(tmp_path: Path, data: bytes) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    for number, bit in enumerate(byte >> shift & 1 for byte in data for shift in range(7, -1, -1)):
        picture.putpixel((number // 64, number % 64), (0, 0, 0, bit))
    picture.save(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="says nothing of how it was made"):
        read_picture(tmp_path / "a.png")


# -- damaged, and too much -----------------------------------------------------------------------------------------


def test_a_text_that_unpacks_to_more_than_a_text_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(b"a" * 2_000_000)
    path = with_chunk(tmp_path / "a.png", chunk(b"zTXt", b"parameters\0\0" + packed))
    with pytest.raises(InvalidInput, match="cannot be read: .*too large"):
        read_picture(path)
    texts = PngInfo()
    for number in range(20):
        texts.add_itxt(f"text {number}", "a" * 900_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", pnginfo=texts)
    with pytest.raises(InvalidInput, match=r"18,000,000 characters of text; at most 16,000,000"):
        read_picture(tmp_path / "b.png")


def test_whatever_is_done_to_a_file_it_is_read_or_refused(tmp_path: Path) -> None:
    """Bytes cut off and changed anywhere: nothing but an answer or a clear refusal."""
    with Image.open(io.BytesIO(to_png(draw(SPEC), SPEC, RECIPE))) as picture:
        jpeg, webp = converted(picture, "jpeg", 90), converted(picture, "webp", 90)
    whole = png(tmp_path / "w.png", parameters=TEXT).read_bytes()
    chance = random.Random(7)
    read, path, refusals = 0, tmp_path / "a.png", list[str]()
    for data in (jpeg, webp, whole):
        for number in range(120):
            damaged = bytearray(data[: chance.randrange(len(data))] if number % 3 == 0 else data)
            for _ in range(chance.randrange(1, 12)):
                if damaged:
                    damaged[chance.randrange(min(len(damaged), 700))] = chance.randrange(256)
            path.write_bytes(damaged)
            try:
                read += read_picture(path).request is not None
            except InvalidInput as error:
                refusals.append(str(error))
    assert read > 20
    assert all(refusal.startswith(f"{path}: ") for refusal in refusals)
