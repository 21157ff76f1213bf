"""Whoever sends very much waits for itself: a few requests of each caller at the same time, and no more."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from scheduler.api.access import Caller
from scheduler.api.waiting import permits
from scheduler.api.waiting.permits import FairPermits, _Line, without_permit
from storage.access.keys import Limits, Role

#: Of a farm with two keys: what is shown → who is let in.
KEYS = {"of ann": "ann", "also of ann": "ann", "of ben": "ben"}
#: Of one caller and kind, in most tests.
AT_ONCE = 3
Asked = Callable[[], Awaitable[None]]


class Server:
    """Hands requests to routes that work until they are let go."""

    def __init__(self) -> None:
        self.at_work: Counter[str] = Counter()
        self.answered: list[str] = []
        self.go = asyncio.Event()
        self.work: Asked | None = None
        self._stops = defaultdict[str, asyncio.Queue[None]](asyncio.Queue)
        self.app = FairPermits(self._route, shared=AT_ONCE, least=AT_ONCE)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        name, key = scope["path"], dict(scope["headers"]).get(b"x-api-key", b"").decode()
        self.at_work[name] += 1
        try:
            await (self.work() if self.work else self._until_let_go(name))
        finally:
            self.at_work[name] -= 1
        if key in KEYS:
            scope["farm_caller"] = Caller(owner="", role=Role.READ, limits=Limits(), key_id=KEYS[key])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.answered.append(name)
        await send({"type": "http.response.body", "body": b""})

    async def _until_let_go(self, name: str) -> None:
        let_go = [asyncio.ensure_future(one) for one in (self.go.wait(), self._stops[name].get())]
        try:
            await asyncio.wait(let_go, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in let_go:
                one.cancel()

    def let_go(self, name: str) -> None:
        """Let one of those that are at work end."""
        self._stops[name].put_nowait(None)

    def ask(self, name: str, key: str = "", *, method: str = "GET", body: Sequence[Message] = ()) -> "Client":
        return Client(self, name, key, method, body)


class Client:
    """A request that is on its way."""

    def __init__(self, server: Server, name: str, key: str, method: str, body: Sequence[Message]) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        for message in body or [{"type": "http.request", "body": b"", "more_body": False}]:
            self.messages.put_nowait(message)
        headers = [(b"x-api-key", key.encode())] if key else []
        headers += [(b"transfer-encoding", b"chunked")] if body else []
        scope = {"type": "http", "method": method, "path": name, "headers": headers, "client": ("10.0.0.1", 1)}
        self.over = asyncio.ensure_future(server.app(scope, self.messages.get, self._sent))

    async def _sent(self, message: Message) -> None:
        pass

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


def lines(server: Server) -> list[_Line]:
    return [line for sharer in server.app._sharers.values() for line in (sharer.reading, sharer.changing)]


async def shared_server(work: Asked | None = None) -> Server:
    """A server that knows each key, and at which each counts."""
    server = Server()
    server.go.set()
    for key in 2 * tuple(KEYS):
        await server.ask("known", key).over
    server.go.clear()
    server.at_work.clear()
    server.answered.clear()
    server.work = work
    return server


async def settled() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@asynccontextmanager
async def asked(server: Server, clients: Sequence[Client]) -> AsyncIterator[None]:
    """Let what can begin, begin; at the end everything is answered, and nothing is kept of it."""
    await settled()
    try:
        yield
    finally:
        server.go.set()
        await asyncio.gather(*(client.over for client in clients))
    assert not any(line.at_work or line.waiting for line in lines(server))


def run(test: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_few_of_one_caller_are_worked_on_and_another_does_not_wait_behind_them() -> None:
    async def test() -> None:
        server = await shared_server()
        many = [server.ask("/ann", "of ann") for _ in range(20)]
        async with asked(server, [*many, server.ask("/ben", "of ben")]):
            assert server.at_work == {"/ann": AT_ONCE, "/ben": 1}
        assert Counter(server.answered) == {"/ann": 20, "/ben": 1}

    run(test)


def test_what_nobody_else_needs_is_a_callers_alone_until_somebody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        server = await shared_server()
        server.app._shared = 10
        monkeypatch.setattr(permits, "_SHARING_SECONDS", -1.0)
        anns = [server.ask("/ann", "of ann") for _ in range(20)]
        async with asked(server, anns):
            assert server.at_work["/ann"] == 20
            anns.append(server.ask("/ben", "of ben"))
            anns += [server.ask("/ann", "of ann") for _ in range(20)]
            await settled()
            assert (server.at_work["/ann"], server.at_work["/ben"]) == (20, 1)
            for _ in range(18):
                server.let_go("/ann")
            await settled()
            assert server.at_work["/ann"] == 5
            server.let_go("/ben")
            await settled()
            # Who is alone again is so with their next request.
            anns.append(server.ask("/ann", "of ann", method="POST"))
            server.let_go("/ann")
            await settled()
            assert server.at_work["/ann"] == 22

    run(test)


def test_two_forms_of_one_key_are_one_caller() -> None:
    async def test() -> None:
        server = await shared_server()
        both = [server.ask("/ann", key) for key in ("of ann", "also of ann") for _ in range(5)]
        async with asked(server, both):
            assert server.at_work["/ann"] == AT_ONCE

    run(test)


def test_keys_that_nobody_knows_wait_together() -> None:
    async def test() -> None:
        server = await shared_server()
        async with asked(server, [server.ask("/forged", f"forged {n}") for n in range(20)]):
            assert server.at_work["/forged"] == AT_ONCE

    run(test)


def test_who_looks_does_not_wait_behind_what_the_same_caller_changes_and_health_behind_nobody() -> None:
    async def test() -> None:
        server = await shared_server()
        posts = [server.ask("/post", "of ann", method="POST") for _ in range(9)]
        gets = [server.ask("/get", "of ann")]
        health = [server.ask("/healthz") for _ in range(9)]
        async with asked(server, posts + gets + health):
            assert server.at_work == {"/post": AT_ONCE, "/get": 1, "/healthz": 9}

    run(test)


def test_a_body_that_comes_slowly_takes_no_permit() -> None:
    async def test() -> None:
        server = await shared_server()
        piece: Message = {"type": "http.request", "body": b" ", "more_body": True}
        slow = [server.ask("/slow", method="POST", body=[piece]) for _ in range(9)]
        async with asked(server, [server.ask("/quick", method="POST")]):
            assert server.at_work == {"/quick": 1}
            for client in slow:
                client.leave()
            await asyncio.gather(*(client.over for client in slow))

    run(test)


def test_an_answer_that_is_read_slowly_keeps_no_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        server, read = await shared_server(), asyncio.Event()

        async def sent(_client: Client, message: Message) -> None:
            if message["type"] == "http.response.body":
                await read.wait()

        monkeypatch.setattr(Client, "_sent", sent)
        many = [server.ask("/read") for _ in range(10)]
        server.go.set()
        async with asked(server, many):
            assert len(server.answered) == 10
            read.set()

    run(test)


def test_nothing_is_done_for_who_has_gone_while_they_waited() -> None:
    async def test() -> None:
        server = await shared_server()
        first = [server.ask("/first") for _ in range(AT_ONCE)]
        last: Message = {"type": "http.request", "body": b"{}", "more_body": False}
        await settled()
        gone = [server.ask("/gone"), server.ask("/gone", method="GET", body=[last])]
        stays = server.ask("/stays")
        async with asked(server, [*first, stays]):
            for client in gone:
                client.leave()
            await asyncio.gather(*(client.over for client in gone))
            assert server.at_work == {"/first": AT_ONCE}
        assert Counter(server.answered) == {"/first": AT_ONCE, "/stays": 1}

    run(test)


def test_who_waits_for_something_else_lets_others_work_meanwhile() -> None:
    async def test() -> None:
        waited = asyncio.Event()

        async def work() -> None:
            async with without_permit():
                await waited.wait()
            await server.go.wait()

        server = await shared_server(work)
        many = [server.ask("/waits") for _ in range(10)]
        async with asked(server, many):
            assert server.at_work["/waits"] == 10
            waited.set()
            await settled()
            # Each goes on as one of a few again.
            assert [(line.at_work, len(line.waiting)) for line in lines(server) if line.at_work] == [(AT_ONCE, 7)]

    run(test)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_request_that_fails_gives_its_permit_back(cancelled: bool) -> None:
    async def test() -> None:
        async def work() -> None:
            await server.go.wait()
            raise RuntimeError("on purpose")

        server = await shared_server(work)
        failing = [server.ask("/fails") for _ in range(9)]
        await settled()
        if cancelled:
            for client in failing:
                client.over.cancel()
        else:
            server.go.set()
        ended = await asyncio.gather(*(client.over for client in failing), return_exceptions=True)
        assert {type(one) for one in ended} == {asyncio.CancelledError if cancelled else RuntimeError}
        assert not any(line.at_work or line.waiting for line in lines(server))

    run(test)
