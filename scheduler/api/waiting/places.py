"""Places for callers that wait: as many for each key, and in all, as this process can hold beside its other work."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from scheduler.api.access import Caller
from scheduler.api.problems import Refused

#: More than one program's users make wait together; a fourth of all, so that one key cannot take everybody's.
_PER_KEY = 300
#: Each is a connection: a descriptor, and about 100 kB of memory.
_IN_ALL = 1200
_RETRY_SECONDS = 10


class Places:
    """Counts who waits; used on the event loop alone."""

    def __init__(self, what: str, *, per_key: int = _PER_KEY, in_all: int = _IN_ALL) -> None:
        """Prepare the places; `what`: in words, what takes them, such as "requests that wait"."""
        self._what = what
        self._per_key = per_key
        self._in_all = in_all
        self._taken: Counter[str | None] = Counter()

    @property
    def busy(self) -> int:
        """How many are taken."""
        return self._taken.total()

    @contextmanager
    def taken(self, caller: Caller) -> Iterator[None]:
        """Take a place. Raises Refused: 429 if the caller's key has no more of them, 503 if nobody has."""
        retry = {"Retry-After": str(_RETRY_SECONDS)}
        if self._taken[caller.key_id] >= self._per_key:
            raise Refused(
                429, f"this key has {self._per_key} {self._what} already; try again when one of them has ended", retry
            )
        if self.busy >= self._in_all:
            raise Refused(503, f"the API has {self._in_all} {self._what} already; try again later", retry)
        self._taken[caller.key_id] += 1
        try:
            yield
        finally:
            self._taken[caller.key_id] -= 1
            if not self._taken[caller.key_id]:
                del self._taken[caller.key_id]
