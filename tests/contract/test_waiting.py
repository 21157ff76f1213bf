"""Callers that wait, for pictures and for events: they hold up nobody, are bounded, and leave nothing behind."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.openapi.utils import get_openapi
from sqlalchemy import event, update

from scheduler.api.access import Caller
from scheduler.api.problems import Refused
from scheduler.api.waiting.followers import Followers
from scheduler.api.waiting.places import Places
from scheduler.api.waiting.waiters import Waiters
from storage.access.keys import Keys, Limits, Role
from storage.database.connection import Database, database_now
from storage.database.key_tables import keys
from storage.events.log import EventLog
from storage.jobs.jobs import Jobs
from storage.renders.followed import Followed
from storage.renders.views import Views
from tests.contract.renders import claim, pictures, published, rendered, submit
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually
from tests.shared_routes import whose_routes_are_shared

pytestmark = pytest.mark.slow

#: Every request that waits for its render: its address, body and headers.
WAITING: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "images": ("/v1/images/generations", {"prompt": "a star"}, {}),
    "txt2img": ("/sdapi/v1/txt2img", {"prompt": "a star"}, {}),
    "predictions": ("/v1/predictions", {"version": "tiny", "input": {"prompt": "a star"}}, {"Prefer": "wait"}),
    "models": ("/v1/models/farm/tiny/predictions", {"input": {"prompt": "a star"}}, {"Prefer": "wait=60"}),
    "renders": ("/v1/renders", {"prompt": "a star"}, {"Prefer": "wait=60"}),
}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A farm in which nobody works."""
    with running_stage(tmp_path / "home") as stage:
        stage.working.clear()
        yield stage


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def sent(stage: Stage, path: str, body: dict[str, Any] | None, headers: dict[str, str], key: str = "") -> socket.socket:
    """Send a request and leave its answer unread; GET without a body."""
    url = urlsplit(stage.address)
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        *(f"Host: {url.netloc}", f"Authorization: Bearer {key or stage.key}", f"Content-Length: {len(content)}"),
        *("Content-Type: application/json", "Connection: close"),
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    connection = socket.create_connection((url.hostname, url.port), timeout=90)
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    return connection


def answer(connection: socket.socket) -> str:
    """Read an answer to its end."""
    with connection.makefile("rb") as file:
        return file.read().decode()


def accepted(stage: Stage) -> int:
    return len(stage.services.views.renders(limit=1000))


def waiting(stage: Stage, held: ExitStack, door: str, key: str = "") -> socket.socket:
    """Send a request that waits, until its render is accepted."""
    before = accepted(stage)
    connection = held.enter_context(closing(sent(stage, *WAITING[door], key)))
    eventually(lambda: accepted(stage) > before, "its render is accepted")
    return connection


def streaming(stage: Stage, held: ExitStack, render: str, key: str = "") -> socket.socket:
    """Follow a render, until the first thing is told."""
    connection = held.enter_context(closing(sent(stage, f"/v1/renders/{render}/events", None, {}, key)))
    head = connection.recv(4096)
    assert head.startswith(b"HTTP/1.1 200")
    return connection


def end(stage: Stage, *, revoked: str, expired: str) -> None:
    """Revoke a key, and let another one run out."""
    Keys(stage.services.database).revoke(revoked.split("_")[1])
    with stage.services.database.write() as connection:
        theirs = update(keys).where(keys.c.id == expired.split("_")[1])
        connection.execute(theirs.values(expires_at=database_now()))


# -- they hold up nobody ---------------------------------------------------------------------------------------


def test_waiting_callers_hold_up_nobody_and_all_get_their_pictures(stage: Stage, held: ExitStack) -> None:
    doors = ["images", "txt2img"]
    callers = [held.enter_context(closing(sent(stage, *WAITING[doors[n % 2]]))) for n in range(220)]
    eventually(lambda: accepted(stage) == 220, "all are accepted")
    render = stage.client().post("/v1/renders", json={"prompt": "one more"})
    assert render.status_code == 202
    assert stage.client().get("/healthz").status_code == 200
    assert stage.client().get(f"/v1/renders/{render.json()['id']}").json()["state"] == "waiting"
    stage.working.set()
    assert {answer(caller).partition("\r\n")[0] for caller in callers} == {"HTTP/1.1 200 OK"}


@pytest.mark.parametrize("door", WAITING)
def test_whoever_vanishes_waits_no_longer(stage: Stage, held: ExitStack, door: str) -> None:
    places = stage.context.waiters.places = Places("requests that wait", per_key=1)
    path, body, headers = WAITING[door]
    for _ in range(2):
        connection = waiting(stage, held, door)
        assert stage.client().post(path, json=body, headers=headers).status_code == 429
        connection.close()
        eventually(lambda: places.busy == 0, "its place is free")
    eventually(lambda: not stage.context.waiters.reading, "nobody reads for it")
    assert stage.services.views.unfinished_jobs() == 2, "its renders continue"


def test_the_mark_of_a_vanished_caller_is_taken_away(stage: Stage, held: ExitStack) -> None:
    connection = waiting(stage, held, "txt2img")
    eventually(lambda: len(stage.context.waits.of("ann")) == 1, "it is waited for")
    connection.close()
    eventually(lambda: stage.context.waits.of("ann") == [], "nobody waits for it")
    assert "nothing to interrupt" in stage.client().post("/sdapi/v1/interrupt").json()["remarks"][0]


def test_a_render_that_two_wait_for_is_marked_until_both_have_gone(stage: Stage, held: ExitStack) -> None:
    path, body, _ = WAITING["txt2img"]
    same = {"Idempotency-Key": "same"}
    first, second = (held.enter_context(closing(sent(stage, path, body, same))) for _ in range(2))
    eventually(lambda: stage.context.waiters.places.busy == 2, "both wait")
    eventually(lambda: len(stage.context.waits.of("ann")) == 1, "it is waited for")
    first.close()
    eventually(lambda: stage.context.waiters.places.busy == 1, "one has gone")
    assert stage.client().post("/sdapi/v1/interrupt").json() == {}
    assert answer(second).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("door", WAITING)
def test_whoever_waits_is_turned_away_when_their_key_is_revoked_or_expires(
    stage: Stage, held: ExitStack, door: str
) -> None:
    revoked, expired = stage.new_key(), stage.new_key()
    valid, *others = (waiting(stage, held, door, key) for key in (stage.key, revoked, expired))
    end(stage, revoked=revoked, expired=expired)
    for connection in others:
        told = answer(connection)
        assert told.startswith("HTTP/1.1 401")
        assert "www-authenticate: bearer" in told.lower()
        assert "the API key was revoked, or has expired, since this request came" in told
    eventually(lambda: stage.context.waiters.places.busy == 1, "only one is left")
    assert stage.services.views.unfinished_jobs() == 3, "their renders continue"
    stage.working.set()
    assert answer(valid).partition("\r\n")[0].split()[1] in ("200", "201", "202")


def test_whoever_waits_without_a_key_is_turned_away_when_the_first_key_is_made(tmp_path: Path, held: ExitStack) -> None:
    with running_stage(tmp_path / "home", keyed=False) as stage:
        stage.working.clear()
        connection = waiting(stage, held, "images")
        stage.new_key()
        assert answer(connection).startswith("HTTP/1.1 401")


# -- they are bounded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", WAITING)
def test_too_many_waiting_callers_are_refused_and_nothing_of_theirs_is_accepted(
    stage: Stage, held: ExitStack, door: str
) -> None:
    stage.context.waiters.places = Places("requests that wait", per_key=2, in_all=3)
    path, body, headers = WAITING[door]
    ben, cat = stage.client(stage.new_key("ben")), stage.new_key("cat")
    for _ in range(2):
        waiting(stage, held, door)
    one_key = stage.client().post(path, json=body, headers=headers)
    waiting(stage, held, door, cat)
    in_all = ben.post(path, json=body, headers=headers)
    assert (one_key.status_code, one_key.headers["Retry-After"]) == (429, "10")
    assert "this key has 2 requests that wait already" in one_key.text
    assert (in_all.status_code, in_all.headers["Retry-After"]) == (503, "10")
    assert "the API has 3 requests that wait already" in in_all.text
    assert accepted(stage) == 3
    # Who does not wait takes no place.
    assert ben.post("/v1/renders", json={"prompt": "a star"}).status_code == 202
    assert ben.post("/v1/predictions", json=WAITING["predictions"][1]).status_code == 201


def test_too_many_streams_are_refused(stage: Stage, held: ExitStack) -> None:
    stage.context.followers.places = Places("streams of events", per_key=2, in_all=3)
    render = stage.client().post("/v1/renders", json={"prompt": "a star"}).json()["id"]
    ben, cat = (stage.new_key("ann") for _ in range(2))
    first, _ = (streaming(stage, held, render) for _ in range(2))
    one_key = stage.client().get(f"/v1/renders/{render}/events")
    streaming(stage, held, render, cat)
    in_all = stage.client(ben).get(f"/v1/renders/{render}/events")
    assert (one_key.status_code, one_key.headers["Retry-After"]) == (429, "10")
    assert (in_all.status_code, in_all.headers["Retry-After"]) == (503, "10")
    first.close()
    eventually(lambda: stage.context.followers.places.busy == 2, "the place of one that vanished is free")
    streaming(stage, held, render, ben)


def test_one_key_cannot_take_the_places_of_all(held: ExitStack) -> None:
    places = Places("requests that wait")

    def caller(key_id: str | None) -> Caller:
        return Caller(owner="ann", role=Role.SUBMIT, limits=Limits(), key_id=key_id)

    def status(key_id: str | None) -> int:
        with pytest.raises(Refused) as refused:
            held.enter_context(places.taken(caller(key_id)))
        return refused.value.status

    for key_id in ("a", "b", "c", None):
        for _ in range(300):
            held.enter_context(places.taken(caller(key_id)))
        assert status(key_id) == 429
    assert (status("d"), places.busy) == (503, 1200)
    held.close()
    assert places.busy == 0


# -- streams ---------------------------------------------------------------------------------------------------


def test_a_stream_ends_when_its_key_is_revoked_or_expires(stage: Stage, held: ExitStack) -> None:
    render = stage.client().post("/v1/renders", json={"prompt": "a star"}).json()["id"]
    revoked, expired = stage.new_key(), stage.new_key()
    valid, *others = (streaming(stage, held, render, key) for key in (stage.key, revoked, expired))
    end(stage, revoked=revoked, expired=expired)
    for connection in others:
        answer(connection)
    eventually(lambda: stage.context.followers.places.busy == 1, "only one is left")
    assert stage.client(revoked).get(f"/v1/renders/{render}/events").status_code == 401
    stage.working.set()
    assert "event: render.finished" in answer(valid)


def test_a_stream_without_a_key_ends_when_the_first_key_is_made(tmp_path: Path, held: ExitStack) -> None:
    with running_stage(tmp_path / "home", keyed=False) as stage:
        stage.working.clear()
        render = httpx.post(f"{stage.address}/v1/renders", json={"prompt": "a star"}, timeout=60).json()["id"]
        stream = streaming(stage, held, render)
        stage.new_key()
        answer(stream)
        address = f"{stage.address}/v1/renders/{render}"
        eventually(lambda: httpx.get(address, timeout=60).status_code == 401, "nobody is let in without")


def test_streams_that_join_at_any_event_are_told_all_that_follow(stage: Stage, held: ExitStack) -> None:
    render = stage.client().post("/v1/renders", json={"prompt": "a star", "n": 150}).json()["id"]
    from_the_start = [held.enter_context(closing(sent(stage, f"/v1/renders/{render}/events", None, {})))]
    assert stage.complete("tiny") == 8
    from_within = [
        held.enter_context(closing(sent(stage, f"/v1/renders/{render}/events?after={seen}", None, {})))
        for seen in (0, 5, 16)
    ]
    eventually(lambda: stage.context.followers.places.busy == 4, "all follow it")
    stage.working.set()
    told = [
        [int(line.removeprefix("id: ")) for line in answer(stream).splitlines() if line.startswith("id: ")]
        for stream in (*from_the_start, *from_within)
    ]
    assert told == [[*range(seen + 1, 302)] for seen in (0, 0, 5, 16)]


# -- one reader for all ----------------------------------------------------------------------------------------


def test_the_openapi_document_is_built_while_others_are_answered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    building, go_on = threading.Event(), threading.Event()

    def slowly(**parts: Any) -> dict[str, Any]:
        building.set()
        assert go_on.wait(120)
        return get_openapi(**parts)

    monkeypatch.setattr("fastapi.applications.get_openapi", slowly)
    monkeypatch.setattr(whose_routes_are_shared(), "openapi_schema", None)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(stage.keyless().get, "/openapi.json", timeout=120) for _ in range(2)]
        try:
            assert building.wait(120)
            assert stage.client().get("/healthz").status_code == 200
            assert stage.client().get("/v1/renders").status_code == 200
        finally:
            go_on.set()
        first, second = (one.result().json() for one in asked)
    assert first == second
    assert "/v1/renders" in first["paths"]


class Statements:
    """Counts what is sent to a database."""

    def __init__(self, database: Database) -> None:
        self.sent = 0
        event.listen(database.engine, "before_cursor_execute", self._count)

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # Behind a pooler each transaction begins with the settings, in place of the session.
        self.sent += not statement.startswith(("BEGIN", "SELECT set_config("))


def test_one_look_reads_for_all_who_wait(farm: Jobs, database: Database) -> None:
    rows, events = Followed(database), EventLog(database)
    watched = [submit(farm, pictures(2), watched=True) for _ in range(30)]
    done = claim(farm, limit=1)
    farm.complete(rendered(done), published(*done.jobs))
    finished = submit(farm, pictures(1))
    farm.cancel(finished)
    statements = Statements(database)
    assert rows.unfinished([*watched, finished, "nobody"]) == set(watched)
    assert statements.sent == 1
    views = Views(database)
    seen = rows.renders([*watched, finished, "nobody"])
    assert {name: one.view for name, one in seen.items()} == {name: views.render(name) for name in (*watched, finished)}
    [busy] = [name for name, one in seen.items() if one.events]
    numbers = [(busy, seq) for seq in range(2, seen[busy].events + 1)]
    assert events.these(numbers) == {busy: events.after(busy, 1)}


@pytest.mark.parametrize("reader", [Waiters, Followers])
def test_a_reader_reads_nothing_while_nobody_waits(stage: Stage, held: ExitStack, reader: type) -> None:
    waits = reader is Waiters
    places = stage.context.waiters.places if waits else stage.context.followers.places
    render = stage.client().post("/v1/renders", json={"prompt": "a star"}).json()["id"]
    connection = waiting(stage, held, "images") if waits else streaming(stage, held, render)
    eventually(lambda: places.busy == 1, "somebody waits")
    one = stage.context.waiters if waits else stage.context.followers
    eventually(lambda: one.reading, "rows are read for them")
    connection.close()
    eventually(lambda: not one.reading, "it has ended")
