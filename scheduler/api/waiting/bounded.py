"""Work for callers that takes a core and memory: so much at the same time, and nothing for those who have gone."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import Caller
from scheduler.api.problems import Refused
from scheduler.api.waiting.gone import CLIENT_CLOSED_REQUEST, gone
from scheduler.api.waiting.permits import without_permit
from scheduler.api.waiting.places import Places

T = TypeVar("T")
#: Raises Refused if nobody waits for the work any more.
Stay = Callable[[], None]


class Bounded:
    """Does one kind of work; made on the event loop. Whoever waits for their turn holds a place, and no thread."""

    def __init__(self, what: str, *, at_once: int) -> None:
        """Prepare the work; `what`: in words, such as "thumbnails that are being made"."""
        self.places = Places(what)
        self._turns = CapacityLimiter(at_once)

    async def do(self, request: Request, caller: Caller, work: Callable[[Stay], T]) -> T:
        """Do it in a thread when it is its turn; work of several steps calls what it is given before each.

        Raises Refused if too many wait, or the caller has gone meanwhile.
        """
        with self.places.taken(caller):
            left = asyncio.ensure_future(gone(request.receive))

            def stay() -> None:
                if left.done():
                    raise Refused(CLIENT_CLOSED_REQUEST, "the caller has gone")

            try:
                async with without_permit(), self._turns:
                    stay()
                    return await run_in_threadpool(work, stay)
            finally:
                left.cancel()
