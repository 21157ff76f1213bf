"""Pictures as PNG files: the farm's encoder beside Pillow's default."""

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target
from benchmarks.synthetic import photograph
from storage.spec.picture import Spec
from worker.serving.encode import to_png
from worker.serving.png import write_png

_SHEET = Path(__file__).resolve().parents[2] / "examples" / "sheet.png"
_SPEC = Spec(
    model="shapes",
    prompt="a large red star on a white background",
    negative_prompt="",
    width=64,
    height=64,
    num_inference_steps=20,
    guidance_scale=5.0,
    sampler="ddim",
    seed=1,
)
_CPU_SECONDS = 0.2
#: The contact sheet that `make render` leaves: pictures in cells, magnified by a whole factor.
_CELL, _GAP, _TILE, _TILES = 192, 12, 64, 8


def _synthetic(conditions: Conditions) -> Sequence[Image.Image]:
    return [photograph(256 if conditions.quick else 1024)]


def _photograph(_: Conditions) -> Sequence[Image.Image]:
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(file) as picture:
        return [picture.convert("RGB")]


def _shapes(_: Conditions) -> Sequence[Image.Image]:
    """Pictures of the shipped model: those of the sheet's first row, at their own size again."""
    with Image.open(_SHEET) as sheet:
        drawn = sheet.convert("RGB")
    lefts = [_GAP + number * (_CELL + _GAP) for number in range(_TILES)]
    cells = [drawn.crop((left, _GAP, left + _CELL, _GAP + _CELL)) for left in lefts]
    return [cell.resize((_TILE, _TILE), Image.Resampling.NEAREST) for cell in cells]


def _pillow(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _farm(picture: Image.Image) -> bytes:
    return to_png(picture, _SPEC, {})


def _bytes_of_texts() -> int:
    dot = Image.new("RGB", (1, 1))
    return len(_farm(dot)) - len(write_png(dot, []))


@contextmanager
def _encoded(
    conditions: Conditions,
    *,
    encode: Callable[[Image.Image], bytes],
    pictures: Callable[[Conditions], Sequence[Image.Image]],
) -> Iterator[Round]:
    chosen = pictures(conditions)
    pixels = sum(math.prod(picture.size) for picture in chosen)
    # What the farm writes into each file about its making is no matter of compression.
    texts = len(chosen) * _bytes_of_texts() if encode is _farm else 0

    def one_round() -> Figures:
        # Of this thread's own processor time: whoever else is busy on the machine does not count.
        times, started = 0, time.thread_time()
        while not times or (time.thread_time() - started < _CPU_SECONDS and not conditions.quick):
            size = sum(len(encode(picture)) for picture in chosen)
            times += 1
        spent = time.thread_time() - started
        return {
            "megapixels_per_second": times * pixels / spent / 1e6,
            "bytes_per_pixel": (size - texts) / pixels,
        }

    yield one_round


_PICTURES: dict[str, tuple[Callable[[Conditions], Sequence[Image.Image]], tuple[str, ...]]] = {
    "synthetic, 1024²": (_synthetic, ()),
    "photograph": (_photograph, ("matplotlib",)),
    "shapes, 64²": (_shapes, ()),
}

SCENARIO = Scenario(
    name="encoding",
    title="Encoding PNG files",
    measures="What one core encodes a second, and how large the files are.",
    limit="Huffman's codes: zlib writes 90 MB/s of filtered pixels on one core, which is 30 megapixels",
    figures={
        "megapixels_per_second": Figure("encoded by one core", "MP/s", "higher"),
        "bytes_per_pixel": Figure("file", "bytes/pixel", "lower"),
    },
    arms=[
        Arm(name, partial(_encoded, encode=encode, pictures=pictures), modules, at={"picture": title})
        for name, encode in (("farm", _farm), ("Pillow's default", _pillow))
        for title, (pictures, modules) in _PICTURES.items()
    ],
    targets=[
        Target(
            "9", "megapixels_per_second", "farm", ">=", 6, over="Pillow's default", at={"picture": "synthetic, 1024²"}
        ),
        Target("9", "bytes_per_pixel", "farm", "<=", 1, over="Pillow's default", at={"picture": "synthetic, 1024²"}),
    ],
    share=15,
)
