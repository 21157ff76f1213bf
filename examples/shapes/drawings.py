"""The world of the model `shapes`: one flat shape on a plain background, as a description and as a picture."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw

#: Width and height of a picture in pixels, where nothing else is said.
SIDE = 64

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 160, 60),
    "cyan": (70, 215, 225),
    "blue": (40, 80, 215),
    "purple": (130, 50, 170),
    "pink": (250, 150, 195),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
#: Size → half the width of the shape, in pixels, from and to.
SIZES = {"small": (8.5, 10.5), "large": (16.0, 18.5)}
#: Position → column and row of a grid of three by three.
POSITIONS = {
    "top left": (-1, -1),
    "top": (0, -1),
    "top right": (1, -1),
    "left": (-1, 0),
    "center": (0, 0),
    "right": (1, 0),
    "bottom left": (-1, 1),
    "bottom": (0, 1),
    "bottom right": (1, 1),
}
#: Least distance of a shape from the border, and most distance of its centre from that of its place, in pixels.
MARGIN, JITTER = 2.0, 1.5


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture, completely. `second` is the colour of the shape's other part, `share` how much is of the first."""

    shape: str
    colour: str
    background: str
    size: str
    position: str
    radius: float
    #: The shape's centre, in pixels from the top left corner.
    x: float
    y: float
    width: int = SIDE
    height: int = SIDE
    second: str | None = None
    share: float = 1.0
    #: True if the first colour is on the left.
    first_left: bool = True


def drawing(
    rng: random.Random,
    *,
    shape: str | None = None,
    colour: str | None = None,
    background: str | None = None,
    size: str | None = None,
    position: str | None = None,
    second: str | None = None,
    share: float = 1.0,
    width: int = SIDE,
    height: int = SIDE,
) -> Drawing:
    """A drawing of what is given; the rest is drawn from all values alike, neither colour that of the background.

    A shape is as large on a larger picture.
    """
    taken = {colour, background, second}
    colour = colour or rng.choice([name for name in COLOURS if name not in taken])
    background = background or rng.choice([name for name in COLOURS if name not in (colour, second)])
    size = size or rng.choice(list(SIZES))
    position = position or rng.choice(list(POSITIONS))
    radius = rng.uniform(*SIZES[size])
    column, row = POSITIONS[position]
    border = MARGIN + JITTER + radius
    return Drawing(
        shape=shape or rng.choice(SHAPES),
        colour=colour,
        background=background,
        size=size,
        position=position,
        radius=radius,
        x=width / 2 + column * (width / 2 - border) + rng.uniform(-JITTER, JITTER),
        y=height / 2 + row * (height / 2 - border) + rng.uniform(-JITTER, JITTER),
        width=width,
        height=height,
        second=second,
        share=share,
        first_left=rng.random() < 0.5,
    )


def silhouettes(drawings: Sequence[Drawing]) -> torch.Tensor:
    """How much of each pixel the shape covers: (n, height, width), 0…1, with smooth edges.

    The drawings are to be of one width and height.
    """
    width, height = drawings[0].width, drawings[0].height
    x, y, radius = (torch.tensor([getattr(d, name) for d in drawings]) for name in ("x", "y", "radius"))
    # Where each pixel lies in its shape's own square, −1…1.
    across = ((torch.arange(width) + 0.5 - x[:, None]) / radius[:, None])[:, None, :].expand(-1, height, -1)
    down = ((torch.arange(height) + 0.5 - y[:, None]) / radius[:, None])[:, :, None].expand(-1, -1, width)
    where = torch.stack([across, down], dim=-1) / _REACH
    fields = distance_fields()[torch.tensor([SHAPES.index(d.shape) for d in drawings])]
    distance = torch.nn.functional.grid_sample(
        fields[:, None], where.float(), padding_mode="border", align_corners=False
    )[:, 0]
    return (0.5 - distance * radius[:, None, None]).clamp(0, 1)


def pictures(drawings: Sequence[Drawing]) -> torch.Tensor:
    """The drawings, of one width and height, as (n, 3, height, width), 0…1."""
    mask = silhouettes(drawings)[:, None]
    first, second, background = (
        torch.tensor([COLOURS[name] for name in names])[:, :, None, None] / 255
        for names in (
            [d.colour for d in drawings],
            [d.second or d.colour for d in drawings],
            [d.background for d in drawings],
        )
    )
    shape = torch.where(_of_first_colour(drawings, mask), first, second)
    return background + (shape - background) * mask


def _of_first_colour(drawings: Sequence[Drawing], mask: torch.Tensor) -> torch.Tensor:
    """Which pixels are of the first colour: as many columns from its side as make its share of the area."""
    columns = mask.sum(dim=2, keepdim=True).cumsum(dim=3)
    share = columns / columns[..., -1:].clamp(min=1e-6)
    wanted = torch.tensor([d.share if d.first_left else 1 - d.share for d in drawings])[:, None, None, None]
    left = torch.tensor([d.first_left for d in drawings])[:, None, None, None]
    return (share <= wanted) == left


# -- shapes ----------------------------------------------------------------------------------------------------

#: A distance field covers the square −_REACH…_REACH, beyond which everything is background.
_REACH = 1.6
_FIELD = 129


@cache
def distance_fields() -> torch.Tensor:
    """For each of SHAPES, the distance from its edge in units of its radius, negative inside."""
    return torch.stack([_distance_field(shape) for shape in SHAPES])


def _distance_field(shape: str) -> torch.Tensor:
    """By brute force: how far each point is from the nearest one of the outline."""
    fine = 1024
    inside = torch.tensor(np.array(_stencil(shape, fine)))
    outline = (inside[1:, :-1] != inside[:-1, :-1]) | (inside[:-1, 1:] != inside[:-1, :-1])
    edge = (outline.nonzero().float() + 1) / fine * 2 * _REACH - _REACH
    line = (torch.arange(_FIELD) + 0.5) / _FIELD * 2 * _REACH - _REACH
    points = torch.cartesian_prod(line, line)
    distance = torch.cat([torch.cdist(part, edge).min(dim=1).values for part in points.split(2048)])
    row, column = ((points + _REACH) / (2 * _REACH) * fine).long().unbind(dim=1)
    return torch.where(inside[row, column], -distance, distance).reshape(_FIELD, _FIELD)


def _stencil(shape: str, side: int) -> Image.Image:
    picture = Image.new("1", (side, side))
    draw = ImageDraw.Draw(picture)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x / _REACH + 1) * side / 2, (y / _REACH + 1) * side / 2

    def disc(x: float, y: float, radius: float, fill: int = 1) -> None:
        draw.ellipse([at(x - radius, y - radius), at(x + radius, y + radius)], fill=fill)

    if shape == "circle":
        disc(0, 0, 1)
    elif shape == "ring":
        disc(0, 0, 1)
        disc(0, 0, 0.5, fill=0)
    elif shape == "heart":
        disc(-0.5, -0.4, 0.53)
        disc(0.5, -0.4, 0.53)
        draw.polygon([at(-0.98, -0.18), at(0, -0.55), at(0.98, -0.18), at(0, 1)], fill=1)
    elif shape == "cross":
        draw.rectangle([at(-1, -0.33), at(1, 0.33)], fill=1)
        draw.rectangle([at(-0.33, -1), at(0.33, 1)], fill=1)
    else:
        draw.polygon([at(x, y) for x, y in _corners(shape)], fill=1)
    return picture


def _corners(shape: str) -> list[tuple[float, float]]:
    if shape == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if shape == "diamond":
        return [(0, -1.05), (0.8, 0), (0, 1.05), (-0.8, 0)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "star":
        turns = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2 == 0, 1.1, 0.45)
        return [(float(r * np.sin(t)), float(-r * np.cos(t))) for r, t in zip(reach, turns, strict=True)]
    raise ValueError(f"not a shape: {shape}")
