"""Sizes of pictures as people give them: `768x512`, or `16:9`, how wide to how high, which a model's size completes."""

import re
from collections.abc import Collection, Mapping
from typing import Any

_SIZE = re.compile(r"\s*(\d{1,5})\s*[xX×*]\s*(\d{1,5})\s*")
_ASPECT = re.compile(r"\s*(\d{1,4}(?:\.\d{1,4})?)\s*[:/]\s*(\d{1,4}(?:\.\d{1,4})?)\s*")
_MOST_ASPECT = 16.0
LEAST, MOST, STEP = 8, 8192, 8
_SIDES = {"width", "height"}
#: What says how large a picture is.
FIELDS = ("width", "height", "size", "aspect")


def checked_size(said: str) -> str:
    """Return a size as `768x512`. Raises ValueError saying what is wrong with it."""
    if (match := _SIZE.fullmatch(said)) is None:
        raise ValueError("must be width and height in pixels, such as 768x512")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if not LEAST <= side <= MOST or side % STEP:
            raise ValueError(f"must be of multiples of {STEP} from {LEAST} to {MOST}, and {side} is none")
    return f"{width}x{height}"


def checked_aspect(said: str) -> str:
    """Return an aspect ratio as `16:9`. Raises ValueError saying what is wrong with it."""
    match = _ASPECT.fullmatch(said)
    across, down = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not across or not down:
        raise ValueError("must be how wide to how high, such as 16:9")
    if not 1 / _MOST_ASPECT <= across / down <= _MOST_ASPECT:
        raise ValueError(f"must be between 1:{_MOST_ASPECT:g} and {_MOST_ASPECT:g}:1")
    return f"{across:g}:{down:g}"


def contradiction(given: Collection[str]) -> str | None:
    """Return what is wrong with these fields of one picture, its field first; None if they go together."""
    sides = [name for name in ("width", "height") if name in given]
    if "size" in given and (beside := [*sides, *(["aspect"] if "aspect" in given else [])]):
        return f"size: given beside {beside[0]}, which says the same otherwise; give one of them"
    if "aspect" in given and len(sides) > 1:
        return "aspect: given beside width and height, which say it already; leave one of them out"
    return None


def sides_of(size: str) -> tuple[int, int]:
    """Return width and height of a checked size."""
    width, _, height = size.partition("x")
    return int(width), int(height)


def kept_beside(given: Collection[str], missing: Collection[str]) -> set[str]:
    """Return which of the missing fields are filled in from elsewhere: what a picture says itself overrules them.

    All but sides and aspects that the given ones contradict.
    """
    sides, others = _SIDES & set(given), _SIDES & set(missing)
    if "aspect" in given:
        return set(missing) - (others if sides or len(others) > 1 else set())
    return set(missing) - ({"aspect"} if len(sides | others) > 1 and sides else set())


def overruled(given: Collection[str], change: Collection[str]) -> set[str]:
    """Return which fields of a picture make place for others that replace its own."""
    sides = _SIDES & set(change)
    if "aspect" in change:
        return _SIDES - sides
    if len(sides) > 1:
        return {"aspect"}
    return _SIDES - sides if sides and "aspect" in given else set()


def with_sides(asked: Mapping[str, Any], *, native: tuple[int, int], multiple: int) -> dict[str, Any]:
    """Return fields with width and height in place of an aspect.

    An aspect is drawn on as many pixels as the model's own size has, or beside the side that is given, in multiples of
    what the model takes.
    """
    fields = {name: value for name, value in asked.items() if name != "aspect"}
    across, down = map(float, asked["aspect"].split(":"))
    ratio = across / down
    if "width" in fields:
        fields["height"] = _near(fields["width"] / ratio, multiple)
    elif "height" in fields:
        fields["width"] = _near(fields["height"] * ratio, multiple)
    else:
        height = (native[0] * native[1] / ratio) ** 0.5
        fields |= {"width": _near(height * ratio, multiple), "height": _near(height, multiple)}
    return fields


def _near(pixels: float, multiple: int) -> int:
    return max(multiple, round(pixels / multiple) * multiple)
