"""Permits to work: whoever sends very much waits for itself, and nobody else waits behind it.

Routes run in threads that share one interpreter and few connections to the database. So of each caller no more than a
share of the requests are worked on at the same time; the others wait on the event loop, where they cost neither. What
only looks and what changes something wait apart: a status is not behind the same caller's uploads.
"""

import asyncio
import sys
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.access import caller_of, secret_of
from scheduler.api.waiting.gone import gone

#: Of each kind: what callers share. Threads take turns at one interpreter: sixteen answered nobody sooner than six, and
#: the slowest answers of honest users beside strangers were three times slower. Who is alone has no limit.
SHARED = 6
#: Of one caller and kind, however many share: beside a long manifest another one is accepted.
LEAST = 2
#: A caller counts as one of those who share for so long after a request of theirs.
_SHARING_SECONDS = 10.0
_READING = ("GET", "HEAD", "OPTIONS")
#: Answered on the event loop alone.
_ALWAYS = "/healthz"
#: Keys and logins that were let in; whoever is forgotten waits with their address once more.
_REMEMBERED = 10_000


class _Line:
    """The requests of one caller and kind."""

    def __init__(self, most: Callable[[], int]) -> None:
        """Begin without any; `most` returns how many may be worked on now."""
        self._most = most
        self.at_work = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    def begin(self) -> "asyncio.Future[None] | None":
        """Count a request as worked on if it may be; else return what is done as soon as it is counted."""
        if self.at_work < self._most() and not self.waiting:
            self.at_work += 1
            return None
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def end(self) -> None:
        self.at_work -= 1
        while self.waiting and self.at_work < self._most():
            if not (next_one := self.waiting.popleft()).done():
                self.at_work += 1
                next_one.set_result(None)


class _Permit:
    """One request's permit: taken when the whole request is there, and given up for good when its answer begins."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._taken = False
        self._over = False

    async def take(self, receive: Receive) -> bool:
        """Wait for it; return whether the caller is still there. At once where it is taken, or over."""
        if self._taken or self._over:
            return True
        turn = self._line.begin()
        if turn is None:
            self._taken = True
            return True
        left = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({left, turn}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            # Where it was its turn and the caller left at the same moment, it is given up as any other.
            self._taken = not turn.cancel()
        return self._taken

    def give_up(self) -> None:
        """Let the next request begin. Idempotent."""
        if self._taken:
            self._taken = False
            self._line.end()

    def end(self) -> None:
        """Give it up for good. Idempotent."""
        self._over = True
        self.give_up()


class _Sharer:
    """One of those who share."""

    def __init__(self, most: Callable[[], int]) -> None:
        self.seen_at = time.monotonic()
        self.reading = _Line(most)
        self.changing = _Line(most)

    def line(self, method: str) -> _Line:
        self.seen_at = time.monotonic()
        return self.reading if method in _READING else self.changing

    @property
    def is_over(self) -> bool:
        busy = self.reading.at_work or self.changing.at_work
        return not busy and self.seen_at < time.monotonic() - _SHARING_SECONDS


_permit: ContextVar[tuple[_Permit, Receive] | None] = ContextVar("permit", default=None)


@asynccontextmanager
async def without_permit() -> AsyncIterator[None]:
    """Give up the permit of the request that is answered, for what takes long and is bounded otherwise."""
    if (held := _permit.get()) is None:
        yield
        return
    permit, receive = held
    permit.give_up()
    try:
        yield
    finally:
        await permit.take(receive)


class FairPermits:
    """Have no more than a share of requests of each caller worked on at the same time."""

    def __init__(self, app: ASGIApp, *, shared: int = SHARED, least: int = LEAST) -> None:
        """Prepare to share so many of each kind among callers, each of whom has the least number at all times."""
        self._app = app
        self._shared = shared
        self._least = least
        #: Who shares, the latest last.
        self._sharers: OrderedDict[Hashable, _Sharer] = OrderedDict()
        #: What was shown and let in, hashed → the key.
        self._known: OrderedDict[int, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _ALWAYS:
            await self._app(scope, receive, send)
            return
        shown = _shown(Request(scope))
        permit = _Permit(self._sharer(shown, scope).line(scope["method"]))
        token = _permit.set((permit, receive))
        try:
            await self._answer(permit, scope, receive, send)
        finally:
            _permit.reset(token)
            permit.end()
            if (caller := caller_of(scope)) is not None and caller.key_id is not None:
                self._remember(shown, caller.key_id)

    def _sharer(self, shown: int, scope: Scope) -> _Sharer:
        whose = self._known.get(shown) or (scope.get("client") or ("",))[0]
        while self._sharers and next(iter(self._sharers.values())).is_over:
            self._sharers.popitem(last=False)
        sharer = self._sharers.setdefault(whose, _Sharer(self._most))
        self._sharers.move_to_end(whose)
        return sharer

    def _most(self) -> int:
        sharers = len(self._sharers)
        return max(self._least, self._shared // sharers) if sharers > 1 else sys.maxsize

    async def _answer(self, permit: _Permit, scope: Scope, receive: Receive, send: Send) -> None:
        first: Message | None = None
        if not _has_body(scope["headers"]):
            first = await receive()
            if not await permit.take(receive):
                return

        async def arriving() -> Message:
            nonlocal first
            if first is not None:
                message, first = first, None
                return message
            message = await receive()
            # A body that comes slowly keeps nobody waiting.
            if message["type"] == "http.request" and not message.get("more_body", False):
                return message if await permit.take(receive) else {"type": "http.disconnect"}
            return message

        async def answering(message: Message) -> None:
            await send(message)
            # Nor does what is sent slowly.
            if message["type"] == "http.response.start":
                permit.end()

        await self._app(scope, arriving, answering)

    def _remember(self, shown: int, key_id: str) -> None:
        self._known[shown] = key_id
        self._known.move_to_end(shown)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _shown(request: Request) -> int:
    """Return what stands for the key or the login that a request shows; never the key itself."""
    secret = secret_of(request)
    return hash(request.headers.get("cookie") if secret is None else secret)


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    said: Mapping[bytes, bytes] = dict(headers)
    return b"transfer-encoding" in said or said.get(b"content-length", b"0") != b"0"
