"""What is another once a file is another: looked at without reading it, as often as anybody asks."""

from pathlib import Path

#: Its place on its disk, its length, when it was written, when anything about it was changed.
FileState = tuple[int, int, int, int]


def file_state(file: Path) -> FileState:
    """Return what is another once a file is another, even one of the same length and time. Raises OSError.

    The last number cannot be set: what is copied with its times, or moved into the place of another, has its own.
    """
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
