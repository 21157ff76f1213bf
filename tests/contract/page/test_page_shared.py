"""Pages that many have open: what is read for all of them; none shows what is older than its event, nor others'."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from scheduler.api.page.looks import CALLED_BY
from storage.access.keys import Role
from storage.fleet.workers import NewWorker
from tests.contract.event_streams import followed
from tests.contract.page.visitors import log_in, token, visitor
from tests.contract.stage import Stage
from tests.servers import eventually

VISITORS = 12


@pytest.fixture
def waiting(stage: Stage) -> Iterator[str]:
    """A render none of whose pictures is rendered by itself."""
    stage.working.clear()
    with _key(stage, "ann") as ann:
        yield str(ann.post("/v1/renders", json={"prompt": "anns secret", "model": "tiny", "n": 200}).json()["id"])
    while stage.complete("tiny"):
        pass
    stage.working.set()


@contextmanager
def _key(stage: Stage, owner: str) -> Iterator[httpx.Client]:
    yield stage.client(stage.new_key(owner))


@dataclass
class Counted:
    """Statements of the database's engine, those of the API's readers of events among them."""

    n: int = 0


@contextmanager
def counted(stage: Stage, table: str) -> Iterator[Counted]:
    """Count what is asked of a table."""
    found, engine = Counted(), stage.services.database.engine

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.n += f"FROM {table}" in statement and "pixels_sha256" in statement

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def visitors(stage: Stage, *who: tuple[str, Role]) -> Iterator[list[httpx.Client]]:
    with ExitStack() as held:
        yield [held.enter_context(visitor(stage, owner, role)) for owner, role in who]


def complete(stage: Stage) -> None:
    """Render one batch."""
    assert stage.complete("tiny")


def wait_for_a_look(stage: Stage) -> None:
    """Until the farm was looked at for who follows it: nobody is told of what changed before that."""
    eventually(lambda: stage.context.farm_followers._before is not None, "somebody has looked at the farm")


def test_pages_that_an_event_calls_look_once_for_all(stage: Stage, ann: httpx.Client, waiting: str) -> None:
    path = f"/renders/{waiting}"
    address = html_events(ann.get(path).text)
    with followed(ann, address) as stream:
        complete(stage)
        number = stream.until("job.done").id
        with counted(stage, "jobs") as read:
            texts = [ann.get(path, headers={CALLED_BY: number}).text for _ in range(VISITORS)]
        assert len(set(texts)) == 1
        # One look's; more only where a second passed between two of them.
        alone = counted_alone(stage, ann, path)
        assert read.n < VISITORS * alone / 2
        assert texts[0].count("/thumbnail?") > 0


def counted_alone(stage: Stage, client: httpx.Client, path: str) -> int:
    with counted(stage, "jobs") as read:
        client.get(path)
    assert read.n
    return read.n


def test_the_list_says_when_renders_end_and_how_fast_they_are_as_their_pages_do(
    stage: Stage, ann: httpx.Client, waiting: str
) -> None:
    name = f'id="r-{waiting}"'

    def told() -> str:
        return next(one for one in ann.get("/").text.split("<li>") if name in one)

    complete(stage)
    # Nobody serves its model: no end is made up.
    assert "done in about" not in told()
    stage.services.workers.announce(
        NewWorker(name="w1", host="h", device="cpu:0", device_name="cpu", pid=1, models=["tiny"])
    )
    pace = r"[\d.,]+ pictures a (second|minute)"
    ends = rf"done in about [\d.]+ \w+, at <time [^>]+>[^<]+</time>: {pace}"
    # In a list, what is ahead of each that waits is not counted; its own page does that.
    assert re.search(rf"takes about [\d.]+ \w+ by itself, {pace}", told())
    assert re.search(ends, ann.get(f"/renders/{waiting}").text)
    claim = stage.services.jobs.claim(model="tiny", worker="w1", limit=8)
    assert claim is not None
    assert re.search(ends, told())
    stage.finish(claim)
    while stage.complete("tiny"):
        pass
    for text in (told(), ann.get(f"/renders/{waiting}").text):
        assert re.search(rf"200 pictures in [\d.]+ \w+, {pace}", text)
    stage.services.workers.forget("w1")


def html_events(text: str) -> str:
    [address] = re.findall(r'data-events="([^"]+)"', text)
    return str(address).replace("&amp;", "&")


def test_no_look_is_older_than_the_event_that_called_for_it(stage: Stage, ann: httpx.Client, waiting: str) -> None:
    """Of a render's events, and of the farm's; each page is asked for all the time by others, too."""
    path = f"/renders/{waiting}"
    of_render, of_farm = html_events(ann.get(path).text), html_events(ann.get("/").text)
    with followed(ann, of_render) as render, followed(ann, of_farm) as farm, ThreadPoolExecutor(4) as others:
        wait_for_a_look(stage)
        for _ in range(6):
            stale = {path: render.sent[-1].id if render.sent else "", "/": farm.sent[-1].id if farm.sent else ""}
            looking = [others.submit(ann.get, one, headers={CALLED_BY: called}) for one, called in stale.items()]
            complete(stage)
            done = stage.context.views.render(waiting).done
            for stream, kind in ((render, "job.done"), (farm, "render")):
                number = until_done(stream, kind, done)
                page = ann.get(path if stream is render else "/", headers={CALLED_BY: number}).text
                assert f"{done:,} of 200 done" in page
            assert all(one.result().is_success for one in looking)


def until_done(stream: Any, kind: str, done: int) -> str:
    """The number of the event by which a client knows of so many pictures."""
    seen = sum(one.kind == "job.done" for one in stream.sent)

    def enough(data: Any) -> bool:
        nonlocal seen
        seen += kind == "job.done"
        return bool(seen >= done if kind == "job.done" else data["done"] >= done)

    return str(stream.until(kind, enough).id)


def test_who_was_called_by_nothing_sees_what_they_did(ann: httpx.Client, waiting: str) -> None:
    data = {"form_token": token(ann, f"/renders/{waiting}")}
    for _ in range(5):
        for what, state in (("on-hold", "held"), ("off-hold", "waiting")):
            assert ann.post(f"/renders/{waiting}/{what}", data=data).status_code == 303
            # An event that nobody told calls for nothing older either.
            for called in ("", "1" * 5000, "999999", "abc.1", "²"):
                page = ann.get(f"/renders/{waiting}", headers=httpx.Headers({CALLED_BY: called}, encoding="utf-8")).text
                assert f'data-says="The render: {state}"' in page


def test_what_is_shared_is_shared_with_nobody_else(stage: Stage, waiting: str) -> None:
    """The same places, asked for at the same time and for the same event, by owners, a reader and an admin."""
    who = [("ann", Role.SUBMIT), ("ben", Role.SUBMIT), ("ann", Role.READ), ("eve", Role.ADMIN), ("ann", Role.SUBMIT)]
    paths = ["/", "/renders", "/renders?model=tiny", f"/renders/{waiting}", f"/renders/{waiting}?after=3"]
    with visitors(stage, *who) as clients, ThreadPoolExecutor(len(who) * len(paths)) as threads:
        anns, bens, readers, admins, anns_other = clients
        with followed(anns, html_events(anns.get("/").text)) as stream:
            wait_for_a_look(stage)
            complete(stage)
            number = stream.until("render").id
        for headers in ({CALLED_BY: number}, {}):
            asked = {
                (client, path): threads.submit(client.get, path, headers=headers)
                for path in paths
                for client in clients
            }
            found = {one: answer.result() for one, answer in asked.items()}
            for path in paths:
                said = {client: found[client, path] for client in clients}
                assert said[bens].status_code == (404 if waiting in path else 200)
                assert "anns secret" not in said[bens].text
                assert waiting in path or waiting not in said[bens].text
                assert ">ann<" not in said[bens].text
                assert ">eve<" in said[admins].text
                assert ("Owner" in said[anns].text) == ("Owner" in said[readers].text)
                for client in (anns, readers, anns_other):
                    assert ">ann<" in said[client].text
                    assert ">eve<" not in said[client].text
                tokens = {
                    tuple(set(re.findall(r'form_token" value="([^"]+)"', said[client].text))) for client in clients
                }
                # A form is its visitor's own, of two logins of one owner, too.
                assert all(len(one) == 1 for one in tokens)
                assert len(tokens) == len(clients)
                assert 'href="/submit"' in said[anns].text
                assert 'href="/submit"' not in said[readers].text
        data = {"form_token": re.findall(r'form_token" value="([^"]+)"', said[anns_other].text)[0]}
        assert anns_other.post(f"/renders/{waiting}/on-hold", data=data).status_code == 303
        assert anns.post(f"/renders/{waiting}/off-hold", data=data).status_code == 403


def test_a_word_of_what_was_done_is_said_to_who_did_it(stage: Stage, ann: httpx.Client, waiting: str) -> None:
    with visitor(stage) as other:
        log_in(other, stage.key)
        data = {"form_token": token(ann, f"/renders/{waiting}")}
        ann.post(f"/renders/{waiting}/on-hold", data=data)
        assert "Held: what waits is out of the queue" in ann.get(f"/renders/{waiting}").text
        for client in (other, ann):
            assert "Held: what waits is out" not in client.get(f"/renders/{waiting}").text
