"""Nothing that tests write has to survive a power cut: nobody waits for the disk, longer than for most tests."""

import os
from typing import Any

import storage.database.connection

_prepare_sqlite = storage.database.connection._prepare_sqlite


def flush_nothing(fd: object) -> None:
    """Take the place of `os.fsync`."""


def prepare_sqlite_unflushed(connection: Any, _record: object) -> None:
    """Take the place of what prepares each connection to an SQLite file."""
    _prepare_sqlite(connection, _record)
    connection.execute("PRAGMA synchronous=OFF")


def wait_for_no_disk() -> None:
    """Have this process, and all that are forked from it, flush nothing from now on."""
    os.fsync = flush_nothing
    storage.database.connection._prepare_sqlite = prepare_sqlite_unflushed
