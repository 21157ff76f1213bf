"""Have the memory of a long-lived process go back to the system once it is freed."""

import ctypes
import os

#: Numbers of glibc's `mallopt(3)`.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 2**20
_ARENAS = 2


def return_freed_memory() -> None:
    """Have glibc give large blocks back as soon as they are freed, and keep few pools of small ones; else do nothing.

    By itself it keeps a pool for each of a server's threads, and serves ever larger blocks from them after the first
    was freed: one small block in use above it then holds what an upload or a picture took. Idempotent; for the start
    of a process, before it has threads. Whoever sets `MALLOC_ARENA_MAX` decides for themselves.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS)
