"""What arrives is bounded: by who sends it, by how long it takes, and when the API is to stop."""

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from select import select
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from scheduler.api import arriving, checks
from scheduler.api.access import Caller
from scheduler.api.app import Faults
from scheduler.api.checks import Checks
from scheduler.api.compat import openai_images
from scheduler.api.compat.absent import instead
from scheduler.api.problems import Refused, answer_with_problems
from scheduler.api.request_ids import RequestIds
from storage.access.keys import Limits, Role
from tests.contract.stage import Stage, running_stage
from tests.contract.test_waiting import answer, waiting
from tests.servers import eventually

#: More than a stranger may send.
LARGE = 100_000


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("arriving") / "home") as stage:
        yield stage


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "_PATIENCE_SECONDS", 0.3)


def begun(stage: Stage, held: ExitStack, *lines: str, path: str = "/v1/renders", body: bytes = b"") -> socket.socket:
    """Begin a request, and leave it at that."""
    url = urlsplit(stage.address)
    connection = held.enter_context(closing(socket.create_connection((url.hostname, url.port), timeout=90)))
    head = [f"POST {path} HTTP/1.1", f"Host: {url.netloc}", "Connection: close", *lines]
    connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    return connection


@pytest.mark.parametrize("path", ["/v1/renders", "/v1/files", "/v1/images/generations", "/sdapi/v1/txt2img"])
@pytest.mark.parametrize("shown", [(), ("Authorization: Bearer farm_wrong",), ("Authorization: Basic x",)])
def test_strangers_are_turned_away_before_what_they_send_is_read(
    stage: Stage, held: ExitStack, path: str, shown: tuple[str, ...]
) -> None:
    form = "Content-Type: " + ("multipart/form-data; boundary=b" if path == "/v1/files" else "application/json")
    told = begun(stage, held, *shown, form, f"Content-Length: {LARGE}", path=path)
    assert answer(told).startswith("HTTP/1.1 401")
    chunk = f"{LARGE:x}\r\n".encode() + b" " * LARGE + b"\r\n"
    untold = begun(stage, held, *shown, form, "Transfer-Encoding: chunked", path=path, body=chunk)
    assert answer(untold).partition("\r\n")[0].split()[1] in ("400", "401")


@pytest.mark.parametrize("shown", ["Authorization: Bearer {}", "X-API-Key: {}", "Authorization: Basic {basic}"])
def test_whoever_shows_a_key_in_any_way_may_send_much(stage: Stage, held: ExitStack, shown: str) -> None:
    line = shown.format(stage.key, basic=base64.b64encode(f"ann:{stage.key}".encode()).decode())
    body = b'{"prompt": "a"}' + b" " * LARGE
    sent = begun(stage, held, line, "Content-Type: application/json", f"Content-Length: {len(body)}", body=body)
    assert answer(sent).startswith("HTTP/1.1 202")


@pytest.mark.usefixtures("impatient")
def test_a_body_that_does_not_go_on_is_given_up(stage: Stage, held: ExitStack) -> None:
    half = begun(stage, held, f"Authorization: Bearer {stage.key}", "Content-Length: 50", body=b"{")
    told = answer(half)
    assert told.startswith("HTTP/1.1 400")
    assert "nothing more of the request's body has come" in told


def test_a_body_that_drips_is_given_up(stage: Stage, held: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than a busy machine lets pass between two drops.
    monkeypatch.setattr(arriving, "_PATIENCE_SECONDS", 3.0)
    dripping = begun(stage, held, f"Authorization: Bearer {stage.key}", "Content-Length: 50000", body=b"{")
    told = str(eventually(lambda: _dripped(dripping), "it is answered"))
    assert told.startswith("HTTP/1.1 400")
    assert "the request's body comes too slowly: " in told


def _dripped(connection: socket.socket) -> str | None:
    """Send one byte more, before the next of them is missed; what is answered meanwhile."""
    if select([connection], [], [], 0)[0]:
        return answer(connection)
    connection.sendall(b" ")
    return None


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nA: b\r\n"])
def test_a_connection_on_which_nothing_is_asked_is_closed(stage: Stage, sent: bytes) -> None:
    url = urlsplit(stage.address)
    with socket.create_connection((url.hostname, url.port), timeout=90) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""


@pytest.mark.usefixtures("impatient")
def test_whoever_waits_for_an_answer_waits_on(tmp_path: Path, held: ExitStack) -> None:
    with running_stage(tmp_path / "home") as stage:
        stage.working.clear()
        caller = waiting(stage, held, "images")
        test_a_connection_on_which_nothing_is_asked_is_closed(stage, b"")
        stage.working.set()
        assert answer(caller).startswith("HTTP/1.1 200")


def test_bodies_on_their_way_do_not_hold_up_the_end_of_the_api(tmp_path: Path, held: ExitStack) -> None:
    with running_stage(tmp_path / "home") as stage:
        half = begun(stage, held, f"Authorization: Bearer {stage.key}", "Content-Length: 50", body=b"{")
        stage.context.ending.set()
        told = answer(half)
    assert told.startswith("HTTP/1.1 503")
    assert "retry-after: 5" in told.lower()
    assert "the API is stopping; send the request again" in told


@pytest.mark.parametrize("ending", [False, True])
def test_what_the_server_cancels_when_it_stops_is_told_so(ending: bool) -> None:
    async def cancelled(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise asyncio.CancelledError

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    app = FastAPI()
    answer_with_problems(app, {}, openai_images.error, instead)
    sent: list[Message] = []
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "app": app}
    flag = threading.Event()
    if ending:
        flag.set()
    with nullcontext() if ending else pytest.raises(asyncio.CancelledError):
        asyncio.run(RequestIds(Faults(cancelled, ending=flag))(scope, receive, send))
    assert [one["status"] for one in sent if "status" in one] == [503] * ending


def test_inputs_that_wait_to_be_checked_are_bounded(held: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MOST_OF_ONE_KEY", 1)
    monkeypatch.setattr(checks, "_MOST_OF_ALL", 2)
    found = Checks()

    def status(key_id: str) -> int:
        caller = Caller(owner="ann", role=Role.SUBMIT, limits=Limits(), key_id=key_id)
        try:
            held.enter_context(found.turn(caller))
        except Refused as refused:
            return refused.status
        return 200

    assert [status(key_id) for key_id in ("a", "a", "b", "c")] == [200, 429, 200, 503]
    held.close()
    assert [status(key_id) for key_id in ("a", "c")] == [200, 200]


def test_an_upload_is_refused_while_too_many_of_its_key_are_checked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_MOST_OF_ONE_KEY", 0)
    answered = stage.client().post("/v1/files", files={"file": ("a.png", b"a")})
    assert (answered.status_code, answered.headers["Retry-After"]) == (429, "5")
    eventually(lambda: stage.client().get("/healthz").status_code == 200, "others are answered")


def test_text_that_no_database_keeps_is_refused_as_input(stage: Stage) -> None:
    body = b'{"input_file_id": "\\ud800", "endpoint": "/v1/images/generations", "completion_window": "24h"}'
    answered = stage.client().post("/v1/batches", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code in (400, 404, 422), answered.text
