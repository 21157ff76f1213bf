"""Wait for renders, however many, without a thread for each: one reader of rows tells whose render is finished."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from threading import Event

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from scheduler.api.access import Caller
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from scheduler.api.waiting.gone import CLIENT_CLOSED_REQUEST, gone
from scheduler.api.waiting.permits import without_permit
from scheduler.api.waiting.places import Places
from scheduler.api.waiting.shared_reader import SharedReader
from storage.access.keys import Credential, Keys
from storage.database.connection import Database
from storage.renders.followed import Followed
from storage.renders.waits import RENEWED_EVERY_SECONDS, Waits

#: How often it is looked whether the keys of those who wait still let anybody in.
_KEYS_SECONDS = 0.5


@dataclass(eq=False, frozen=True)
class _Waiter:
    """Somebody who waits for a render."""

    credential: Credential
    over: asyncio.Future[None]


@dataclass(frozen=True, kw_only=True)
class _WaitedRenders:
    """Renders, and by what those are let in who wait for them; empty when it is not time to look at that."""

    waiting: Collection[str]
    marked: Collection[str]
    unmarked: Collection[str]
    credentials: Collection[Credential]


@dataclass(frozen=True, kw_only=True)
class _WaitsOver:
    """Renders that are finished, and what lets nobody in any more."""

    finished: Collection[str]
    ended: Collection[Credential]


class Waiters(SharedReader[_WaitedRenders, _WaitsOver]):
    """Requests that wait for renders."""

    def __init__(self, database: Database, ending: Event, *, every_seconds: float) -> None:
        super().__init__(every_seconds=every_seconds, ending=ending)
        self.places = Places("requests that wait for renders")
        self._rows = Followed(database)
        self._marks = Waits(database)
        self._keys = Keys(database)
        #: Render → who waits for it.
        self._waiting: defaultdict[str, set[_Waiter]] = defaultdict(set)
        #: Render → how many wait for it who may interrupt it.
        self._marked: Counter[str] = Counter()
        #: Marks to take away.
        self._unmarked: set[str] = set()
        self._renewed_at = 0.0
        self._keys_at = 0.0

    async def wait(
        self, request: Request, render_id: str, caller: Caller, *, seconds: float, interruptible: bool = False
    ) -> None:
        """Wait until a render is finished, so many seconds have passed, or the API is stopping.

        Args:
            interruptible: it is marked meanwhile as waited for (`storage.renders.waits`).

        Raises Refused as soon as the caller has gone, or their key lets nobody in any more (401); the render goes on.
        """
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(caller.credential, over)
        left = asyncio.ensure_future(gone(request.receive))
        self._enter(render_id, waiter, interruptible)
        try:
            if interruptible:
                await run_in_threadpool(self._marks.mark, [render_id])
            async with without_permit():
                await asyncio.wait({over, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
            elif left.done():
                raise Refused(CLIENT_CLOSED_REQUEST, f"the caller has gone; render {render_id} continues")
        finally:
            left.cancel()
            self._leave(render_id, waiter, interruptible)

    def _enter(self, render_id: str, waiter: _Waiter, interruptible: bool) -> None:
        self._waiting[render_id].add(waiter)
        if interruptible:
            self._marked[render_id] += 1
            self._unmarked.discard(render_id)
        self._awake()

    def _leave(self, render_id: str, waiter: _Waiter, interruptible: bool) -> None:
        self._waiting[render_id].discard(waiter)
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
        credentials: set[Credential] = set()
        if time.monotonic() - self._keys_at > _KEYS_SECONDS:
            credentials = {waiter.credential for waiters in self._waiting.values() for waiter in waiters}
            self._keys_at = time.monotonic()
        return _WaitedRenders(
            waiting=list(self._waiting), marked=list(self._marked), unmarked=unmarked, credentials=credentials
        )

    def _look(self, asked: _WaitedRenders) -> _WaitsOver:
        if asked.unmarked:
            self._marks.unmark(asked.unmarked)
        if asked.marked and time.monotonic() - self._renewed_at > RENEWED_EVERY_SECONDS:
            self._marks.mark(asked.marked)
            self._renewed_at = time.monotonic()
        ended = self._keys.ended(asked.credentials)
        return _WaitsOver(finished=set(asked.waiting) - self._rows.unfinished(asked.waiting), ended=ended)

    def _tell(self, found: _WaitsOver) -> None:
        for render_id in found.finished:
            self._release(render_id, None)
        if not found.ended:
            return
        for render_id, waiters in self._waiting.items():
            for waiter in waiters:
                if waiter.credential in found.ended and not waiter.over.done():
                    waiter.over.set_exception(_turned_away(render_id))

    def _end(self, error: Exception | None) -> None:
        for render_id in list(self._waiting):
            self._release(render_id, error)

    def _release(self, render_id: str, error: Exception | None) -> None:
        for waiter in self._waiting.get(render_id, ()):
            if not waiter.over.done():
                waiter.over.set_result(None) if error is None else waiter.over.set_exception(error)


def _turned_away(render_id: str) -> Refused:
    """Return what is said to somebody whose key was revoked, or ran out, while they waited."""
    return Refused(
        401,
        f"the API key was revoked, or has expired, since this request came; render {render_id} continues",
        {"WWW-Authenticate": "Bearer"},
        code=ProblemCode.INVALID_API_KEY,
    )
