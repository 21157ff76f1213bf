"""No lock is held across a network call: what every contract test checks beside its own claim.

Stores and brokers may hang for minutes. Whoever asks them anything within a transaction that writes holds its locks as
long, and with SQLite the only one that there is.
"""

import functools
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, event

from storage.broker.tickets import Tickets
from storage.objects.folder import LocalObjects
from storage.objects.s3 import S3Objects

#: What asks somebody else something; `presign` and a folder's paths do not.
_CALLS: dict[type, tuple[str, ...]] = {
    LocalObjects: ("put", "get", "copy", "exists", "delete", "delete_below", "check"),
    S3Objects: ("put", "get", "upload", "copy", "exists", "size", "delete", "delete_below", "check"),
    Tickets: ("publish", "queued", "in_hand", "check", "eviction_policy"),
}
_LISTS = (LocalObjects, S3Objects)


class Locks:
    """Knows which threads are within a transaction that writes."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        #: Calls that were made within one, and from where.
        self.met: list[str] = []

    def watch(self) -> None:
        """Watch all engines, stores and brokers of this process from now on."""
        event.listen(Engine, "begin", self._begun)
        event.listen(Engine, "commit", self._ended)
        event.listen(Engine, "rollback", self._ended)
        for one, names in _CALLS.items():
            for name in names:
                setattr(one, name, self._noted(f"{one.__name__}.{name}", getattr(one, name)))
        for one in _LISTS:
            one.list = self._noted_list(f"{one.__name__}.list", one.list)  # type: ignore[method-assign]

    @property
    def _writing(self) -> set[int]:
        found: set[int] = self._of_thread.__dict__.setdefault("writing", set())
        return found

    def _begun(self, connection: Connection) -> None:
        if not connection.get_execution_options().get("farm_read", False):
            self._writing.add(id(connection))

    def _ended(self, connection: Connection) -> None:
        self._writing.discard(id(connection))

    def note(self, what: str) -> None:
        """Note a call, if this thread is within a transaction."""
        if self._writing:
            self.met.append(f"{what}, called by\n{''.join(traceback.format_stack(limit=8)[:-2])}")

    def _noted(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*arguments: Any, **named: Any) -> Any:
            self.note(what)
            return call(*arguments, **named)

        return noted

    def _noted_list(self, what: str, call: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
        @functools.wraps(call)
        def noted(*arguments: Any, **named: Any) -> Iterator[str]:
            self.note(what)
            for one in call(*arguments, **named):
                yield one
                self.note(what)

        return noted


LOCKS = Locks()
LOCKS.watch()
