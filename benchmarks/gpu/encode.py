"""The farm's PNG files beside Pillow's default ones: time on one core, and size."""

import io
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu.architectures import prompt_of
from benchmarks.gpu.bench import Bench
from storage.spec.picture import Spec
from worker.serving.encode import to_png


def encode(bench: Bench) -> None:
    """Encode a picture with the grain of a photograph: smooth shapes and noise of a few levels."""
    side = 256 if bench.tiny else 1024
    picture = Image.fromarray(_photograph(side))
    spec = Spec(
        model="sdxl",
        prompt=prompt_of(1),
        negative_prompt="",
        width=side,
        height=side,
        num_inference_steps=20,
        guidance_scale=7.5,
        seed=1,
    )
    sizes = {}

    def farm() -> None:
        sizes["farm"] = len(to_png(picture, spec, {"kind": "diffusers"}))

    def pillow() -> None:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        sizes["pillow"] = len(buffer.getvalue())

    ours, theirs = bench.seconds(farm, repeat=7), bench.seconds(pillow, repeat=5, warm=1)
    bench.note(
        what="png",
        how=f"{side}x{side}",
        speed_ratio=theirs["median"] / ours["median"],
        size_ratio=sizes["farm"] / sizes["pillow"],
        farm_ms=ours["median"] * 1e3,
        pillow_ms=theirs["median"] * 1e3,
        farm_bytes=sizes["farm"],
    )


def _photograph(side: int) -> Any:
    draw = np.random.default_rng(1)
    along = np.linspace(0, 6, side)
    shapes = np.stack(
        [np.sin(along[:, None] * (1 + channel)) * np.cos(along[None, :] + channel) for channel in range(3)], axis=-1
    )
    return (128 + 90 * shapes + draw.normal(0, 3, shapes.shape)).clip(0, 255).astype(np.uint8)
