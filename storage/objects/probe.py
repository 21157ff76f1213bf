"""Whether a store keeps what was written first: all that the farm promises about pictures rests on it."""

import time

from storage.errors import NotFound, ObjectStoreOverwrites
from storage.objects.store import ObjectStore
from storage.rules.ids import random_id

_FOLDER = "probe/"
_FIRST, _SECOND = b"first", b"second"
_REMEDY = "use a store, or a version of it, that honours conditional writes (deploy/README.md lists some)"
#: Longer than a probe takes, and than clocks of machines differ.
_OLD_SECONDS = 86_400.0


def check_first_write_wins(objects: ObjectStore) -> None:
    """Write an object twice, read it, and delete it. The rights of a worker are enough for it.

    Raises ObjectStoreOverwrites if what was written first is not what is there, ObjectStoreProblem if the store cannot
    be used.
    """
    # A name of its own: two processes that probe at the same moment must not meet. The time is for whoever finds it
    # after a process that was killed in between.
    key = f"{_FOLDER}{int(time.time())}-{random_id()}"
    first = objects.put(key, _FIRST)
    try:
        second = objects.put(key, _SECOND)
        # Also of a store that says that it has refused the second one.
        found = _read(objects, key)
    finally:
        objects.delete(key)
    if found is None or found not in (_FIRST, _SECOND):
        raise ObjectStoreOverwrites(
            f"{objects.shown}: the store says that an object is written, and it "
            f"{'is not there' if found is None else 'has other bytes'} when it is read; use another one"
        )
    if second.sha256 != first.sha256 or found == _SECOND:
        raise ObjectStoreOverwrites(
            f"{objects.shown}: the store ignores `If-None-Match: *`, so a picture could be overwritten; {_REMEDY}"
        )


def _read(objects: ObjectStore, key: str) -> bytes | None:
    try:
        return objects.get(key)
    except NotFound:
        return None


def remove_old_probes(objects: ObjectStore) -> int:
    """Delete what probes that were killed have left, a day after; how many there were. Raises ObjectStoreProblem."""
    old = [key for key in objects.list(_FOLDER) if time.time() - _written_at(key) > _OLD_SECONDS]
    for key in old:
        objects.delete(key)
    return len(old)


def _written_at(key: str) -> float:
    """Return when an object was written by its name; those of earlier versions do not say, and are old."""
    written_at, dash, _ = key.removeprefix(_FOLDER).partition("-")
    return float(written_at) if dash and written_at.isdigit() else 0.0
