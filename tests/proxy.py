"""A cable that fails on demand, between one part of the farm and one service; for S3 also a server that errs."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK = 65536
_ERROR = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_ERROR), _ERROR)
)


class Mode(StrEnum):
    PASS = "pass"
    #: Open connections are reset, and new ones as soon as they are made.
    CUT = "cut"
    #: Connections stay open and can be made, but nothing arrives.
    STALL = "stall"


@dataclass(frozen=True, kw_only=True)
class Moods:
    """Shares of requests that an S3 answers badly."""

    #: 503 SlowDown, and nothing was done.
    refused: float = 0.0
    #: What was asked is done, and the connection closed without an answer.
    unanswered: float = 0.0


class Proxy:
    """Listens on a port of its own and carries bytes to `target`: a socket's path, or a port of this machine."""

    def __init__(self, loop: "Loop", target: str | int) -> None:
        self._loop = loop
        self._target = target
        self._mode = Mode.PASS
        #: Seconds by which whatever is said arrives later, each way.
        self.delay = 0.0
        self._connections: set[asyncio.Task[None]] = set()
        self.port: int = loop.do(self._open())

    def set(self, mode: Mode) -> None:
        self._loop.do(self._set(mode))

    def close(self) -> None:
        self._loop.do(self._close())

    async def _open(self) -> int:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.STALL:
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode is Mode.CUT:
            await self._reset()

    async def _close(self) -> None:
        self._server.close()
        await self._reset()
        await self._server.wait_closed()

    async def _reset(self) -> None:
        open_now = list(self._connections)
        for connection in open_now:
            connection.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The port stays ours while cut: once given up, another process could be given it.
        if self._mode is Mode.CUT:
            writer.transport.abort()
            return
        connection = asyncio.ensure_future(self._carry(reader, writer))
        self._connections.add(connection)
        try:
            await connection
        except asyncio.CancelledError:
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # an end has gone, or the service is down: that shows on both sides
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await self._connect()
        ways = [asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))]
        try:
            # Whichever side closes, closes the other: nobody here speaks through half of a connection.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)


class HttpProxy(Proxy):
    """Carries whole requests, so that it can answer in the service's place; one request a connection."""

    def __init__(self, loop: "Loop", target: int, rng: Random) -> None:
        self._rng = rng
        self.moods = Moods()
        super().__init__(loop, target)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if re.search(rb"(?im)^expect:", head):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        await self._flowing.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        luck, moods = self._rng.random(), self.moods
        if luck < moods.refused:
            writer.write(_SLOW_DOWN)
        else:
            answer = await self._ask(re.sub(rb"(?im)^(expect|connection):[^\r]*\r\n", b"", head), body)
            await self._flowing.wait()
            if luck < moods.refused + moods.unanswered:
                return
            writer.write(answer)
        await writer.drain()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        there, back = await self._connect()
        try:
            back.write(head.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n" + body)
            await back.drain()
            return await there.read()
        finally:
            back.close()


class Loop:
    """An event loop in a thread of its own, for proxies to live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def close(self) -> None:
        # One more round, in which closed transports are let go.
        self.do(asyncio.sleep(0.05))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def proxy_loop() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()
