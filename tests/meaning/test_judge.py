"""The judge itself, on drawings whose truth is known."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from examples.shapes.drawings import SHAPES, SIDE, SIZES, Drawing, drawing, pictures, silhouettes
from examples.shapes.judge import colour_shares, judge, overlap, shape_mask
from examples.shapes.measure import FEATURES


def image(of: Drawing) -> Image.Image:
    pixels = (pictures([of])[0] * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("width", "height", "each"), [(SIDE, SIDE, 25), (96, 64, 5), (64, 96, 5), (128, 128, 5)])
def test_the_judge_reads_drawings_as_they_were_meant(width: int, height: int, each: int) -> None:
    rng = random.Random(2026)
    kinds = [(shape, size) for shape in SHAPES for size in SIZES for _ in range(each)]
    drawings = [drawing(rng, shape=shape, size=size, width=width, height=height) for shape, size in kinds]

    right = Counter(dict.fromkeys(FEATURES, 0))
    for one in drawings:
        seen = judge(image(one))
        right.update(name for name in FEATURES if getattr(seen, name) == getattr(one, name))

    assert {name: n / len(drawings) >= 0.99 for name, n in right.items()} == dict.fromkeys(FEATURES, True), right


def test_the_judge_is_not_fooled_by_noise_and_soft_edges() -> None:
    rng, noise = random.Random(1), np.random.default_rng(1)
    right = 0
    for _ in range(100):
        one = drawing(rng, size="large")
        small = image(one).resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)
        soft = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=float)
        noisy = np.clip(soft + noise.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
        seen = judge(Image.fromarray(noisy))
        right += (seen.shape, seen.colour, seen.background, seen.position) == (
            *(one.shape, one.colour),
            *(one.background, one.position),
        )
    assert right >= 97


@pytest.mark.parametrize("colour", [(128, 128, 128), (220, 40, 40)])
def test_a_picture_without_a_shape_shows_a_background_and_nothing_else(colour: tuple[int, int, int]) -> None:
    seen = judge(Image.new("RGB", (SIDE, SIDE), colour))
    assert (seen.colour, seen.shape, seen.size, seen.position) == (None, None, None, None)


def test_specks_are_no_shape() -> None:
    one = drawing(random.Random(3), shape="star", size="large", position="center", colour="red", background="white")
    picture = image(one)
    for x, y in ((5, 5), (60, 8), (4, 58)):
        picture.paste((0, 0, 0), (x, y, x + 2, y + 2))
    assert (judge(picture).shape, judge(picture).position) == ("star", "center")


def test_a_mask_covers_what_was_drawn() -> None:
    rng = random.Random(4)
    for _ in range(50):
        one = drawing(rng)
        assert overlap(shape_mask(image(one)), silhouettes([one])[0].numpy() > 0.5) > 0.9


def test_shares_of_colour_are_counted() -> None:
    one = drawing(
        random.Random(5), shape="square", size="large", colour="red", second="blue", share=0.75, background="white"
    )
    shares = colour_shares(image(one))
    assert sum(shares.values()) == SIDE * SIDE
    assert 0.65 < shares["red"] / (shares["red"] + shares["blue"]) < 0.85
