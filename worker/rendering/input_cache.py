"""Inputs that callers brought along (conditioning images, embeddings): fetched by reference, decoded, and cached."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from storage.errors import NotFound, RenderFailed
from storage.objects.inputs import ObjectReader, get_input

T = TypeVar("T")

#: A conditioning image of 1024×1024 takes 3 MB when decoded.
_CAPACITY = 64


class InputCache:
    """Decoded inputs, the least recently used one first out."""

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        #: By reference and how it was decoded: one file may be named as a picture here and as embeddings there.
        self._decoded: OrderedDict[tuple[str, Any], Any] = OrderedDict()

    def get(self, reference: str, decode: Callable[[bytes], T]) -> T:
        """Return what `decode` makes of an input.

        Raises RenderFailed if there is no such input or `decode` raises ValueError or OSError.
        """
        key = (reference, decode)
        if key not in self._decoded:
            try:
                self._decoded[key] = decode(self._fetch(reference))
            except (ValueError, OSError) as error:
                raise RenderFailed(f"input {reference}: {error}") from error
        self._decoded.move_to_end(key)
        while len(self._decoded) > _CAPACITY:
            self._decoded.popitem(last=False)
        found: T = self._decoded[key]
        return found

    def _fetch(self, reference: str) -> bytes:
        try:
            return get_input(self._objects, reference)
        except NotFound as error:
            raise RenderFailed(str(error)) from None
