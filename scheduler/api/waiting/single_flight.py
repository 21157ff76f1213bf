"""One reading for all who ask at the same moment: a crowd of answers takes one thread and one connection, not each."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Found = TypeVar("Found")


class SingleFlight(Generic[Found]):
    """Reads in a thread, of each thing once at a time; lives on the event loop.

    What is answered never began before it was asked for: who asks while one reading goes on shares the next one with
    all who wait for it.
    """

    def __init__(self) -> None:
        self._going_on: dict[Hashable, asyncio.Task[Found]] = {}
        #: Those that have not begun.
        self._next: dict[Hashable, asyncio.Task[Found]] = {}

    def __len__(self) -> int:
        """Return how many readings go on or are to begin."""
        return len(self._going_on) + len(self._next)

    async def get(self, name: Hashable, read: Callable[[], Found]) -> Found:
        """Return what a reading found that began after this was called; raises what it raised."""
        reading = self._next.get(name)
        if reading is None:
            reading = self._next[name] = asyncio.ensure_future(self._read(name, read))
        # Others may share it with one whose caller has gone.
        return await asyncio.shield(reading)

    async def _read(self, name: Hashable, read: Callable[[], Found]) -> Found:
        if before := self._going_on.get(name):
            await asyncio.wait([before])
        # From here on, who asks has the one after it.
        self._going_on[name] = self._next.pop(name)
        try:
            return await run_in_threadpool(read)
        finally:
            del self._going_on[name]
