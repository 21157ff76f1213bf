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
        self._decoded: OrderedDict[str, Any] = OrderedDict()

    def get(self, reference: str, decode: Callable[[bytes], T]) -> T:
        """Return what `decode` makes of an input; pass the same `decode` for a reference each time.

        Raises RenderFailed if there is no such input or `decode` raises ValueError or OSError.
        """
        if reference not in self._decoded:
            try:
                self._decoded[reference] = decode(self._fetch(reference))
            except (ValueError, OSError) as error:
                raise RenderFailed(f"input {reference}: {error}") from error
        self._decoded.move_to_end(reference)
        while len(self._decoded) > _CAPACITY:
            self._decoded.popitem(last=False)
        found: T = self._decoded[reference]
        return found

    def _fetch(self, reference: str) -> bytes:
        try:
            return get_input(self._objects, reference)
        except NotFound as error:
            raise RenderFailed(str(error)) from None
