"""Files that other processes read and write at the same time: replaced whole, one writer after the other."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have one process at a time change what is in a folder, of those that ask. Raises OSError."""
    # The folder itself: a file for it would lie about for ever.
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def replace_whole(path: Path, text: str, *, mode: int) -> None:
    """Write a file as UTF-8 with just these line ends, or leave it as it was. Raises OSError."""
    # Here: commands that read such files need not wait for it.
    import tempfile

    # A link stays one: what it names is replaced.
    path = path.resolve()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, delete=False) as unfinished:
        try:
            unfinished.write(text)
            os.fchmod(unfinished.fileno(), mode)
            unfinished.flush()
            os.fsync(unfinished.fileno())
            os.replace(unfinished.name, path)
        except BaseException:
            os.unlink(unfinished.name)
            raise
