"""Permits to work: whoever sends very much waits for itself, and nobody else waits behind it.

Routes run in threads that share one interpreter and few connections to the database. So of each caller a few requests
are worked on at the same time; the others wait on the event loop, where they cost neither. What only looks and what
changes something wait apart: a status is not behind the same caller's uploads.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.access import caller_of, secret_of
from scheduler.api.waiting.gone import gone

#: Of one caller and kind: both kinds together leave some of the process's connections to the database to others.
AT_ONCE = 3
_READING = ("GET", "HEAD", "OPTIONS")
#: Answered on the event loop alone.
_ALWAYS = "/healthz"
#: Keys and logins that were let in; whoever is forgotten waits with their address once more.
_REMEMBERED = 10_000


class _Line:
    """One caller's permits."""

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(AT_ONCE)
        #: Requests that have one or may want one.
        self.users = 0


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
        if self._line.free.locked():
            left = asyncio.ensure_future(gone(receive))
            waits = asyncio.ensure_future(self._line.free.acquire())
            try:
                await asyncio.wait({left, waits}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                left.cancel()
                if not waits.done():
                    waits.cancel()
                elif not waits.cancelled():
                    self._taken = True
            return self._taken
        await self._line.free.acquire()
        self._taken = True
        return True

    def give_up(self) -> None:
        """Let the next request begin. Idempotent."""
        if self._taken:
            self._taken = False
            self._line.free.release()

    def end(self) -> None:
        """Give it up for good. Idempotent."""
        self._over = True
        self.give_up()


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
    """Have no more than a few requests of each caller worked on at the same time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lines: dict[Hashable, _Line] = {}
        #: What was shown and let in, hashed → the key.
        self._known: OrderedDict[int, str | None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _ALWAYS:
            await self._app(scope, receive, send)
            return
        shown = _shown(Request(scope))
        whose = self._known.get(shown) or (scope.get("client") or ("",))[0], scope["method"] in _READING
        line = self._lines.setdefault(whose, _Line())
        line.users += 1
        permit = _Permit(line)
        token = _permit.set((permit, receive))
        try:
            await self._answer(permit, scope, receive, send)
        finally:
            _permit.reset(token)
            permit.end()
            line.users -= 1
            if not line.users:
                del self._lines[whose]
            if (caller := caller_of(scope)) is not None and caller.key_id is not None:
                self._remember(shown, caller.key_id)

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
