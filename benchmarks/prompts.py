"""The prompts that all arms get."""

from collections.abc import Sequence
from itertools import cycle, islice, product

#: As the shipped model's card says that it is used; defaults of the farm's entry for it, too.
STEPS, GUIDANCE, SIZE = 20, 5.0, 64
SHIPPED = "shapes"

_COLOURS = ("red", "green", "blue", "yellow")
_SHAPES = ("star", "circle", "square", "ring", "heart")


def prompts(n: int) -> Sequence[str]:
    """Return n prompts for the shipped model."""
    every = (f"a large {colour} {shape} on a white background" for shape, colour in product(_SHAPES, _COLOURS))
    return list(islice(cycle(every), n))
