"""Wait for renders, however many, without a thread for each: one reader of rows tells whose render is finished."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from threading import Event

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from scheduler.api.problems import Refused
from scheduler.api.waiting.places import Places
from scheduler.api.waiting.shared_reader import SharedReader
from storage.database.connection import Database
from storage.renders.followed import Followed
from storage.renders.waits import RENEWED_EVERY_SECONDS, Waits

#: nginx's word for it; nobody reads this answer.
_CLIENT_CLOSED_REQUEST = 499


@dataclass(frozen=True, kw_only=True)
class _WaitedRenders:
    """Renders."""

    waiting: Collection[str]
    marked: Collection[str]
    unmarked: Collection[str]


class Waiters(SharedReader[_WaitedRenders, set[str]]):
    """Requests that wait for renders."""

    def __init__(self, database: Database, ending: Event, *, every_seconds: float) -> None:
        super().__init__(every_seconds=every_seconds, ending=ending)
        self.places = Places("requests that wait for renders")
        self._rows = Followed(database)
        self._marks = Waits(database)
        #: Render → what to set once it is finished, for each who waits.
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        #: Render → how many wait for it who may interrupt it.
        self._marked: Counter[str] = Counter()
        #: Marks to take away.
        self._unmarked: set[str] = set()
        self._renewed_at = 0.0

    async def wait(self, request: Request, render_id: str, *, seconds: float, interruptible: bool = False) -> None:
        """Wait until a render is finished, so many seconds have passed, or the API is stopping.

        Args:
            interruptible: it is marked meanwhile as waited for (`storage.renders.waits`).

        Raises Refused as soon as the caller has gone; the render goes on.
        """
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone = asyncio.ensure_future(_gone(request))
        self._enter(render_id, over, interruptible)
        try:
            if interruptible:
                await run_in_threadpool(self._marks.mark, [render_id])
            await asyncio.wait({over, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
            elif gone.done():
                raise Refused(_CLIENT_CLOSED_REQUEST, f"the caller has gone; render {render_id} continues")
        finally:
            gone.cancel()
            self._leave(render_id, over, interruptible)

    def _enter(self, render_id: str, over: asyncio.Future[None], interruptible: bool) -> None:
        self._waiting[render_id].add(over)
        if interruptible:
            self._marked[render_id] += 1
            self._unmarked.discard(render_id)
        self._awake()

    def _leave(self, render_id: str, over: asyncio.Future[None], interruptible: bool) -> None:
        self._waiting[render_id].discard(over)
        if not self._waiting[render_id]:
            del self._waiting[render_id]
        if interruptible:
            self._marked[render_id] -= 1
            if not self._marked[render_id]:
                del self._marked[render_id]
                # By the reader, which marks them, too: its marks never come later.
                self._unmarked.add(render_id)
                self._awake()

    def _asked(self) -> _WaitedRenders | None:
        if not (self._waiting or self._unmarked):
            return None
        # What is not unmarked for want of a database is not marked again either.
        unmarked, self._unmarked = self._unmarked, set()
        return _WaitedRenders(waiting=list(self._waiting), marked=list(self._marked), unmarked=unmarked)

    def _look(self, asked: _WaitedRenders) -> set[str]:
        if asked.unmarked:
            self._marks.unmark(asked.unmarked)
        if asked.marked and time.monotonic() - self._renewed_at > RENEWED_EVERY_SECONDS:
            self._marks.mark(asked.marked)
            self._renewed_at = time.monotonic()
        return set(asked.waiting) - self._rows.unfinished(asked.waiting)

    def _tell(self, found: set[str]) -> None:
        for render_id in found:
            self._release(render_id, None)

    def _end(self, error: Exception | None) -> None:
        for render_id in list(self._waiting):
            self._release(render_id, error)

    def _release(self, render_id: str, error: Exception | None) -> None:
        for over in self._waiting.get(render_id, ()):
            if not over.done():
                over.set_result(None) if error is None else over.set_exception(error)


async def _gone(request: Request) -> None:
    """Return when the caller has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
