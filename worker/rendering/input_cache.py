"""What callers brought beside words: fetched from the object store by reference, decoded, and kept while it is used."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from storage.errors import NotFound, RenderFailed
from storage.objects.inputs import get_input
from storage.objects.s3 import ObjectStore
from worker.serving.outages import Patiently

T = TypeVar("T")

#: A conditioning image of 1024×1024 is 3 MB when decoded.
_KEPT = 64


class Inputs:
    """The inputs that were used last, decoded."""

    def __init__(self, objects: ObjectStore, *, patiently: Patiently) -> None:
        self._objects = objects
        self._patiently = patiently
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, reference: str, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of an input; the same `decode` for a reference each time.

        Raises RenderFailed if there is no such input or `decode` raises ValueError or OSError.
        """
        if reference not in self._kept:
            try:
                self._kept[reference] = decode(self._fetch(reference))
            except (ValueError, OSError) as error:
                raise RenderFailed(f"input {reference}: {error}") from error
        self._kept.move_to_end(reference)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        found: T = self._kept[reference]
        return found

    def _fetch(self, reference: str) -> bytes:
        try:
            return self._patiently(lambda: get_input(self._objects, reference), what="fetch inputs")
        except NotFound as error:
            raise RenderFailed(str(error)) from None
