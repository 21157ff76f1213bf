"""Bound what arrives: bodies in bytes and in time, those of strangers much more, and connections that ask nothing.

A file is on the disk, and JSON in memory, before any route knows who sent it. So whoever sends more than a little shows
a key first.
"""

import asyncio
import time
from threading import Event

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from scheduler.api import problems
from scheduler.api.access import Access, secret_of
from scheduler.intake.uploads import MAX_BYTES

#: Ten thousand prompts of a thousand characters are 10 MB.
_MAX_JSON_BYTES = 16 * 2**20
#: What a multipart form adds to the size of its file.
_FORM_BYTES = 2**16
#: Of callers of whom nothing is known yet: more than any form for logging in.
_STRANGERS_BYTES = 2**16
#: For the next piece of a body, and for the head of a request: networks that lose packets need some.
_PATIENCE_SECONDS = 60.0
#: Of a whole body, beside that patience: who sends a piece now and then is not waited for without end.
_LEAST_BYTES_A_SECOND = 1000
STOPPING = "the API is stopping; send the request again"
#: How soon whoever sends slowly is answered when the API is asked to stop.
_LOOK_SECONDS = 0.25


class BoundedBodies:
    """Refuse bodies that are too large before they are in memory, with or without a Content-Length."""

    def __init__(self, app: ASGIApp, *, access: Access, ending: Event) -> None:
        """Prepare to read bodies; once `ending` is set, those that are still on their way are refused."""
        self._app = app
        self._access = access
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = MAX_BYTES + _FORM_BYTES if scope["path"] == "/v1/files" else _MAX_JSON_BYTES
        said = dict(scope["headers"]).get(b"content-length", b"0")
        told = int(said) if said.isdigit() else 0
        if told > most:
            await problems.answer(Request(scope), 413, _words(most))(scope, receive, send)
            return
        received, more, known, began = 0, True, False, time.monotonic()

        async def bounded() -> Message:
            nonlocal received, more, known
            if not more:
                # Whoever waits for the caller to go: for as long as it takes.
                return await receive()
            if not known and max(told, received) > _STRANGERS_BYTES:
                await self._check_caller(scope)
                known = True
            if time.monotonic() - began > _PATIENCE_SECONDS + received / _LEAST_BYTES_A_SECOND:
                raise HTTPException(400, f"the request's body comes too slowly: {received:,} bytes so far")
            message = await self._next(receive)
            more = message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, _words(most))
            return message

        await self._app(scope, bounded, send)

    async def _next(self, receive: Receive) -> Message:
        waited = 0.0
        while waited < _PATIENCE_SECONDS:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    return await receive()
            except TimeoutError:
                waited += _LOOK_SECONDS
                if self._ending.is_set():
                    raise HTTPException(503, STOPPING, {"Retry-After": "5"}) from None
        raise HTTPException(400, f"nothing more of the request's body has come for {_PATIENCE_SECONDS:.0f} s")

    async def _check_caller(self, scope: Scope) -> None:
        """Raise HTTPException (401, 403) if nobody is let in with what a request shows: FastAPI lets it alone pass."""
        request = Request(scope)
        try:
            # A browser's login counts here; whether its form is ours is checked when that is read.
            await run_in_threadpool(self._access.caller, secret_of(request), request, form=True)
        except problems.Refused as refused:
            raise HTTPException(refused.status, str(refused), refused.headers) from None


def _words(most: int) -> str:
    return f"request body larger than {most // 2**20} MiB; split it, or use a manifest"


class Connection(H11Protocol):
    """A connection that is closed when nothing is asked on it for long: each takes one of the process's descriptors.

    The library waits without end for the first request, and for one whose head has begun. It is this one of its two
    implementations, whatever is installed, since the other keeps a head of any length in memory.
    """

    _asking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if self._asking is None and not self._answering:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._asking is not None:
            self._asking.cancel()

    @property
    def _answering(self) -> bool:
        # The library's words are wrong: there is none before the first request.
        cycle: object | None = self.cycle
        return cycle is not None and not self.cycle.response_complete

    def _await_request(self) -> None:
        self._asking = self.loop.call_later(_PATIENCE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._asking = None
        if not self._answering:
            self.transport.close()
