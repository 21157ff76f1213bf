"""Read rows for all who wait in this process: one look at a time for all of them, and none while nobody waits."""

import asyncio
import logging
from abc import ABC, abstractmethod
from contextvars import Context
from threading import Event
from typing import Generic, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from storage.errors import ServiceProblem
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)

#: How soon whoever waits is answered when the API is asked to stop, even where a database does not answer.
_HEARD_WITHIN_SECONDS = 0.1

Asked = TypeVar("Asked")
Found = TypeVar("Found")


class SharedReader(ABC, Generic[Asked, Found]):
    """A task that looks and tells what it found, from the first one who waits until the last.

    It lives on the event loop, as do all who wait; only the look itself is in a thread. While the database is away it
    goes on looking, and who waits goes on waiting.
    """

    def __init__(self, *, every_seconds: float, ending: Event) -> None:
        """Prepare the reader; once `ending` is set, all waits are over."""
        self._every_seconds = every_seconds
        self._ending = ending
        self._task: asyncio.Task[None] | None = None
        self._limiter: CapacityLimiter | None = None
        self._throttle = LogThrottle()

    @property
    def reading(self) -> bool:
        """Whether its task runs: somebody waits."""
        return self._task is not None and not self._task.done()

    @abstractmethod
    def _asked(self) -> Asked | None:
        """Return what to look for; None if nobody waits any more."""

    @abstractmethod
    def _look(self, asked: Asked) -> Found:
        """Read rows, in a thread, one look at a time."""

    @abstractmethod
    def _tell(self, found: Found) -> None:
        """Tell everybody what was found."""

    @abstractmethod
    def _end(self, error: Exception | None) -> None:
        """Tell everybody that it is over: because of an error, or (None) since the API is stopping."""

    def _awake(self) -> None:
        """Start reading, unless it goes on."""
        if not self.reading:
            # In a context of its own: it reads for all, and its lines in the log belong to no single request.
            self._task = asyncio.get_running_loop().create_task(self._read(), context=Context())

    async def _read(self) -> None:
        # A thread of its own: it reads also while all others are busy.
        self._limiter = self._limiter or CapacityLimiter(1)
        while (asked := self._asked()) is not None:
            reading = anyio.to_thread.run_sync(self._look, asked, abandon_on_cancel=True, limiter=self._limiter)
            look = asyncio.ensure_future(reading)
            await asyncio.wait({look}, timeout=_HEARD_WITHIN_SECONDS)
            while not (look.done() or self._ending.is_set()):
                await asyncio.wait({look}, timeout=_HEARD_WITHIN_SECONDS)
            if look.done():
                self._tell_of(look)
            if self._ending.is_set():
                look.cancel()
                self._end(None)
                return
            await self._pause()

    def _tell_of(self, look: asyncio.Future[Found]) -> None:
        try:
            self._tell(look.result())
        except ServiceProblem as error:
            if self._throttle.passes():
                log.warning("callers wait until the database answers", extra={"error": error})
        except Exception as error:
            log.exception("reading for callers that wait failed")
            self._end(error)

    def _pause_seconds(self) -> float:
        """Return how long to wait between two looks."""
        return self._every_seconds

    async def _pause(self) -> None:
        left = self._pause_seconds()
        while left > 0 and not self._ending.is_set():
            await asyncio.sleep(min(left, _HEARD_WITHIN_SECONDS))
            left -= _HEARD_WITHIN_SECONDS
