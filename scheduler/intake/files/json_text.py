"""Read JSON so that no value of it gets lost: Python's own reader keeps the last of two equal keys in silence."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from storage.errors import BadSpecification

_HALF = re.compile("[\ud800-\udfff]")


class DoubledKey(BadSpecification):
    """Raised when an object has a key twice."""

    def __init__(self, words: str, *, place: str = "") -> None:
        super().__init__(words)
        #: Such as `product.seed`.
        self.place = place


def values_of(text: str | bytes) -> int:
    """Count the commas of JSON without reading it, those within texts as well: values next to one another are no more.

    The reader lets no other thread run until an object or a list is whole: a second for some millions of values.
    """
    return text.count(",") if isinstance(text, str) else text.count(b",")


def read_json(text: str | bytes) -> Any:
    """Read JSON, bytes in any of its encodings. Raises DoubledKey, ValueError, RecursionError."""
    try:
        # `loads` would make a reader for each of a million lines.
        return _read_text(text) if isinstance(text, str) else json.loads(text, object_pairs_hook=_once)
    except _Doubled as error:
        # Seldom, and therefore by itself: what is read has no places.
        raise _with_place(json.loads(text, object_pairs_hook=_marked), error.key) from None


def _read_text(text: str) -> Any:
    """Read a text that mostly is one value and nothing else; what else it is, the reader says."""
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        value, end = None, -1
    return value if end == len(text) else _DECODER.decode(text)


def read_value(text: str, at: int) -> tuple[Any, int]:
    """Read the value that begins here, and return it with its end. Raises as `read_json` does."""
    try:
        return _DECODER.raw_decode(text, at)
    except _Doubled as error:
        raise _with_place(_MARKING.raw_decode(text, at)[0], error.key) from None


def place_of_half(value: Any) -> str | None:
    """Return where a value has half of a character (a lone surrogate), which JSON can escape; None: nowhere."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if not one.isascii() and _HALF.search(one):
                return next(_halves(value))[:200]
        elif isinstance(one, dict):
            left += one
            left += one.values()
        elif isinstance(one, list):
            left += one
    return None


class _Doubled(Exception):
    """Raised by the reader's hook, which knows the key but not its place."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _Marked(dict[str, Any]):
    """An object that has this key twice."""

    doubled: str | None = None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Doubled(_twice(pairs))
    return found


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = _Marked(pairs)
    if len(found) != len(pairs):
        found.doubled = _twice(pairs)
    return found


def _twice(pairs: list[tuple[str, Any]]) -> str:
    times = Counter(name for name, _ in pairs)
    return next(name for name, _ in pairs if times[name] > 1)


def _with_place(value: Any, key: str) -> DoubledKey:
    place = next(_places(value), key)[:200]
    return DoubledKey(f"{place}: duplicate key; give it once", place=place)


def _places(value: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(value, _Marked) and value.doubled is not None:
        yield ".".join((*before, value.doubled))
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        # The place of each value is as long as it lies deep: of a million numbers none is needed.
        if isinstance(one, dict | list):
            yield from _places(one, (*before, str(name)))


def _halves(value: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(value, str) and _HALF.search(value):
        yield ".".join(before)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        place = (*before, str(name))
        if _HALF.search(place[-1]):
            yield ".".join(place)
        yield from _halves(one, place)


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
_MARKING = json.JSONDecoder(object_pairs_hook=_marked)
