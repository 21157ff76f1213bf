"""Settling a shard, which waits for the disk or for a bucket, while the next one is built."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Settling:
    """A thread that settles one shard after the other; what the last one raised is raised by the next call."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="export settles")
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last one; what it raised is raised, unless something else was."""
        self._thread.shutdown()
        if error is None:
            self.check()

    def settle(self, work: Callable[[], None]) -> None:
        """Have it done once the last one is, which is waited for: two shards are on this machine at most."""
        if self._last is not None:
            self._last.result()
        self._last = self._thread.submit(work)

    def check(self) -> None:
        """Raise what the last one raised, if it has ended."""
        if self._last is not None and self._last.done():
            self._last.result()
