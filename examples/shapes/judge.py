"""Reads from a picture's pixels what it shows: background, shape, colour, size and position."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.shapes.drawings import COLOURS, MARGIN, POSITIONS, SHAPES, SIDE, SIZES, Drawing, silhouettes

Pixels = NDArray[np.float64]

_FRAME = 2
#: A pixel that differs less from the background than this (in 0…255, Euclidean) is background.
_LEAST_CONTRAST = 40.0
#: Fewer pixels than this are no shape.
_LEAST_AREA = 20


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a picture shows; all but `background` None where there is no shape."""

    background: str
    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    position: str | None = None


def judge(picture: Image.Image) -> Verdict:
    """Look at a picture; what `drawings` draws, of any width and height."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    background = _name(np.median(_frame(pixels), axis=0))
    mask = shape_mask(picture)
    if mask.sum() < _LEAST_AREA:
        return Verdict(background=background)
    top, bottom, left, right = _box(mask)
    shape, radius = _best_shape(mask)
    height, width = mask.shape
    return Verdict(
        background=background,
        colour=_main_colour(pixels, mask),
        shape=shape,
        size=min(SIZES, key=lambda size: abs(radius - sum(SIZES[size]) / 2)),
        position=_position(_third(left, right, width), _third(top, bottom, height)),
    )


def shape_mask(picture: Image.Image) -> NDArray[np.bool_]:
    """The pixels that are more of the shape than of the background."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    difference = np.linalg.norm(pixels - np.median(_frame(pixels), axis=0), axis=2)
    strong = difference[difference > _LEAST_CONTRAST]
    if strong.size < _LEAST_AREA:
        return np.zeros(difference.shape, dtype=bool)
    return _largest_part(difference > max(_LEAST_CONTRAST, np.median(strong) / 2))


def colour_shares(picture: Image.Image) -> Counter[str]:
    """How many pixels are nearest to each colour."""
    return _names(np.asarray(picture.convert("RGB"), dtype=np.float64).reshape(-1, 3))


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def _frame(pixels: Pixels) -> Pixels:
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[_FRAME:-_FRAME, _FRAME:-_FRAME] = True
    return pixels[~inside]


def _name(colour: Pixels) -> str:
    [name] = _names(colour[None])
    return name


def _names(colours: Pixels) -> Counter[str]:
    """Return how many of these (n, 3) are nearest to each colour, in the order in which they come."""
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    nearest = np.linalg.norm(colours[:, None] - palette, axis=2).argmin(axis=1)
    return Counter(np.array(list(COLOURS))[nearest].tolist())


def _main_colour(pixels: Pixels, mask: NDArray[np.bool_]) -> str:
    """The colour of most pixels that are wholly inside, not of the smooth edge."""
    inner = mask.copy()
    for axis in (0, 1):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return _names(pixels[inner if inner.any() else mask]).most_common(1)[0][0]


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest set of pixels that touch each other: specks are no shape."""
    left, best = mask.copy(), np.zeros_like(mask)
    while left.sum() > best.sum():
        part = np.zeros_like(mask)
        part.flat[int(left.argmax())] = True
        while True:
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            grown &= mask
            if (grown == part).all():
                break
            part = grown
        left &= ~part
        if part.sum() > best.sum():
            best = part
    return best


def _best_shape(mask: NDArray[np.bool_]) -> tuple[str, float]:
    """The shape that covers the mask best when drawn into the same box, and its radius."""
    top, bottom, left, right = _box(mask)
    height, width = mask.shape
    candidates = []
    for shape, (above, below, beside) in _extents().items():
        radius = ((right - left) / (2 * beside) + (bottom - top) / (above + below)) / 2
        x, y = (left + right) / 2, (top + bottom) / 2 + radius * (above - below) / 2
        candidates.append(_drawn(shape, x=x, y=y, radius=radius, width=width, height=height))
    covers = silhouettes(candidates).numpy() > 0.5
    fits = [overlap(mask, cover) for cover in covers]
    best = candidates[int(np.argmax(fits))]
    return best.shape, best.radius


@cache
def _extents() -> dict[str, tuple[float, float, float]]:
    """How far each shape reaches above, below and beside its centre, in radii."""
    radius = SIDE / 4
    covers = silhouettes([_drawn(shape, x=SIDE / 2, y=SIDE / 2, radius=radius) for shape in SHAPES]).numpy() > 0.5
    extents: dict[str, Any] = {}
    for shape, cover in zip(SHAPES, covers, strict=True):
        top, bottom, left, right = _box(cover)
        extents[shape] = ((SIDE / 2 - top) / radius, (bottom - SIDE / 2) / radius, (right - left) / 2 / radius)
    return extents


def _drawn(shape: str, **where: Any) -> Drawing:
    return Drawing(shape=shape, colour="white", background="black", size="large", position="center", **where)


def _third(first: int, last: int, side: int) -> int:
    """−1, 0 or 1: on which side of the middle, as a share of how far a shape of this extent could be moved."""
    offset, reach = (first + last - side) / 2, (side - (last - first)) / 2 - MARGIN
    return int(np.clip(np.rint(offset / max(1.0, reach)), -1, 1))


def _position(column: int, row: int) -> str:
    return next(name for name, place in POSITIONS.items() if place == (column, row))
