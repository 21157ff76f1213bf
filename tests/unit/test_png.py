"""Pictures written without Pillow: every reader must see what was drawn."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.serving.png import paeth, write_png


def _noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), np.random.default_rng(seed).bytes(width * height * channels))


def _read(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (31, 32), (33, 33), (64, 65)])
def test_every_size_and_mode_is_read_as_it_was_drawn(mode: str, size: tuple[int, int]) -> None:
    picture = _noise(mode, *size)
    found = _read(write_png(picture, []))
    assert (found.mode, found.size, found.tobytes()) == (mode, size, picture.tobytes())


def test_smooth_and_plain_pictures_are_read_as_they_were_drawn() -> None:
    ramp = Image.linear_gradient("L").resize((100, 90))
    for picture in (Image.merge("RGB", [ramp, ramp.rotate(90), ramp.rotate(180)]), Image.new("RGB", (100, 90), "red")):
        assert _read(write_png(picture, [])).tobytes() == picture.tobytes()


def test_the_predictor_is_the_one_of_the_format() -> None:
    """Against RFC 2083's own words, 6.6."""
    rng = np.random.default_rng(1)
    # All triples of some values, the ends among them, and many others.
    values = np.array([0, 1, 2, 64, 127, 128, 129, 200, 254, 255], np.uint8)
    triples = np.array(np.meshgrid(values, values, values)).reshape(3, -1)
    triples = np.concatenate([triples, rng.integers(0, 256, (3, 50_000), dtype=np.uint8)], axis=1)

    def nearest(a: int, b: int, c: int) -> int:
        p = a + b - c
        distances = (abs(p - a), abs(p - b), abs(p - c))
        return (a, b, c)[distances.index(min(distances))]

    wanted = [nearest(*map(int, triple)) for triple in triples.T]
    assert paeth(*triples).tolist() == wanted


def test_texts_are_found_before_the_pixels() -> None:
    texts = PngInfo()
    texts.add_itxt("parameters", "a ☆ star")
    data = write_png(_noise("RGB", 8, 8), [(chunk[0], chunk[1]) for chunk in texts.chunks])
    # As a reader does that does not decode the picture.
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info["parameters"] == "a ☆ star"


def test_files_are_no_larger_than_with_pillows_own_filters() -> None:
    """At the same strategy of zlib, for a picture with grain."""
    ramp = np.linspace(0, 200, 256)[:, None, None] + np.random.default_rng(2).normal(20, 4, (256, 256, 3))
    picture = Image.fromarray(ramp.clip(0, 255).astype(np.uint8))
    theirs = io.BytesIO()
    picture.save(theirs, "PNG", compress_level=1, compress_type=3)
    assert len(write_png(picture, [])) < 1.03 * len(theirs.getvalue())
