"""Equal pictures have equal hashes of their pixels, whatever their files say."""

import io

from PIL import Image

from scheduler.results.compare import compare
from scheduler.results.conversion import converted
from scheduler.results.thumbnails import shrunk
from storage.objects.pixels import pixels_sha256, pixels_sha256_of
from storage.spec.picture import Spec
from tests.unit.source import ROOT
from worker.serving.encode import to_png


def picture(size: tuple[int, int] = (16, 8)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


def test_the_place_in_the_batch_changes_the_file_and_not_the_hash_of_its_pixels() -> None:
    spec = Spec(
        model="m",
        prompt="a star",
        negative_prompt="",
        width=16,
        height=8,
        num_inference_steps=1,
        guidance_scale=1.0,
        seed=0,
    )
    files = [to_png(picture(), spec, {"batch": {"size": 2, "position": place}}) for place in (0, 1)]
    assert files[0] != files[1]
    assert pixels_sha256_of(files[0]) == pixels_sha256_of(files[1]) == pixels_sha256(picture())


def test_pixels_and_size_count() -> None:
    one = picture()
    other = one.copy()
    other.putpixel((3, 3), (1, 2, 3))
    black = [Image.new("RGB", size) for size in ((16, 8), (8, 16))]
    assert len({pixels_sha256(each) for each in (one, other, *black)}) == 4


def test_what_is_transparent_is_told_apart_and_shown_over_white_where_nothing_can_be_transparent() -> None:
    opaque, clear = picture().convert("RGBA"), picture().convert("RGBA")
    assert pixels_sha256(opaque) == pixels_sha256(picture())
    clear.putalpha(Image.new("L", clear.size, 0))
    assert pixels_sha256(clear) != pixels_sha256(picture())
    files = []
    for one in (opaque, clear):
        buffer = io.BytesIO()
        one.save(buffer, "PNG")
        files.append(buffer.getvalue())
    assert compare(*files).largest_difference == 255

    jpeg = Image.open(io.BytesIO(converted(clear, "jpeg", 95)))
    small = Image.open(io.BytesIO(shrunk(files[1], 64)))
    assert jpeg.convert("RGB").getextrema() == small.convert("RGB").getextrema() == ((255, 255),) * 3
    webp = Image.open(io.BytesIO(converted(clear, "webp", 95)))
    assert webp.getchannel("A").getextrema() == (0, 0)


def test_the_hash_is_the_documented_one() -> None:
    import hashlib

    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    expected = hashlib.sha256(b"16x8\n" + picture().tobytes()).hexdigest()
    assert pixels_sha256_of(buffer.getvalue()) == expected
    assert "`16x8`" in (ROOT / "storage/README.md").read_text()
