"""Whether a store keeps what was written first: all that the farm promises about pictures rests on it."""

from storage.errors import ObjectStoreOverwrites
from storage.objects.store import ObjectStore
from storage.rules.ids import random_id


def check_first_write_wins(objects: ObjectStore) -> None:
    """Write an object twice, and delete it. The rights of a worker are enough for it.

    Raises ObjectStoreOverwrites if the second write replaced the first, ObjectStoreProblem if the store cannot be used.
    """
    # A name of its own: two processes that probe at the same moment must not meet.
    key = f"probe/{random_id()}"
    first = objects.put(key, b"first")
    try:
        second = objects.put(key, b"second")
    finally:
        objects.delete(key)
    if second.sha256 != first.sha256:
        raise ObjectStoreOverwrites(
            f"{objects.shown}: the store ignores `If-None-Match: *`, so a picture could be overwritten; "
            "use a store, or a version of it, that honours conditional writes (deploy/README.md lists some)"
        )
