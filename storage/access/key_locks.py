"""Locks of limited keys: in a process, requests of one key wait for one another without a connection to the database.

Of those there are few, for everybody. Between processes the lock of `storage.access.quotas.accept_alone` does the same.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from storage.access.keys import Limits
from storage.access.quotas import is_alone
from storage.errors import DatabaseBusy

#: As long as a connection is waited for.
_PATIENCE_SECONDS = 30.0
#: Each that waits holds a thread of the process (the API has 200): so many of one key, and of all keys together.
MOST_OF_ONE_KEY = 50
MOST_OF_ALL_KEYS = 150


class _KeyLocks:
    def __init__(self) -> None:
        self._known = threading.Lock()
        #: Key → its lock, and how many have it or wait for it.
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def held(self, key_id: str) -> Iterator[None]:
        with self._known:
            lock, users = self._locks.get(key_id, (threading.Lock(), 0))
            if users > MOST_OF_ONE_KEY or (users and self._waiting() >= MOST_OF_ALL_KEYS):
                raise DatabaseBusy("too many requests wait to be accepted already; try again")
            self._locks[key_id] = lock, users + 1
        try:
            if not lock.acquire(timeout=_PATIENCE_SECONDS):
                raise DatabaseBusy("other requests of this key are being accepted; try again")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._known:
                users = self._locks[key_id][1] - 1
                if users:
                    self._locks[key_id] = lock, users
                else:
                    del self._locks[key_id]

    def _waiting(self) -> int:
        return sum(users - 1 for _, users in self._locks.values())


_locks_of_keys = _KeyLocks()


@contextmanager
def alone_with_key(key_id: str | None, limits: Limits) -> Iterator[None]:
    """Wait until no other request of a limited key is accepted in this process.

    Raises:
        DatabaseBusy: that takes too long, or too many wait already.
    """
    if key_id is None or not is_alone(limits):
        yield
        return
    with _locks_of_keys.held(key_id):
        yield
