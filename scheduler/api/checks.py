"""Checks of what callers bring, whole and in memory: few at the same time, and few that wait for theirs.

Each that waits holds a thread of the process (the API has 200): were they not bounded, a few inputs that take long to
decode, and many beside them, would stop everything else.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

from scheduler.api.access import Caller
from scheduler.api.problems import Refused

#: Each up to `MAX_BYTES` plus what it decodes to.
_AT_ONCE = 2
#: That are checked, or wait for it.
_MOST_OF_ONE_KEY = 20
_MOST_OF_ALL = 80
_RETRY = {"Retry-After": "5"}


class Checks:
    """Counts who has something checked."""

    def __init__(self) -> None:
        self._turns = BoundedSemaphore(_AT_ONCE)
        self._known = Lock()
        self._taken: Counter[str | None] = Counter()

    @contextmanager
    def turn(self, caller: Caller) -> Iterator[None]:
        """Wait for a turn. Raises Refused: 429 if the caller's key has too many already, 503 if all have."""
        with self._known:
            if self._taken[caller.key_id] >= _MOST_OF_ONE_KEY:
                words = f"this key has {_MOST_OF_ONE_KEY} inputs that are being checked already; try again"
                raise Refused(429, words, _RETRY)
            if self._taken.total() >= _MOST_OF_ALL:
                raise Refused(503, f"the API checks {_MOST_OF_ALL} inputs already; try again later", _RETRY)
            self._taken[caller.key_id] += 1
        try:
            with self._turns:
                yield
        finally:
            with self._known:
                self._taken[caller.key_id] -= 1
                if not self._taken[caller.key_id]:
                    del self._taken[caller.key_id]
