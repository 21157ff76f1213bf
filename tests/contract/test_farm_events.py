"""The farm's own stream of events: what it tells, to whom, from where on, and that one reader feeds all who follow."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from scheduler.api.waiting import farm_changes
from scheduler.api.waiting.farm_changes import FarmChanges, FarmSeen
from scheduler.api.waiting.places import Places
from storage.access.keys import Keys, Limits, Role
from storage.database.connection import Database
from storage.fleet.workers import NewWorker, WorkerActivity, Workers
from storage.jobs.jobs import Jobs
from storage.renders import standings
from storage.renders.deletion import Deletions
from storage.renders.standings import RenderStandings
from tests.contract.event_streams import followed
from tests.contract.renders import claim, complete, pictures, submit
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A farm in which nobody works by themselves."""
    with running_stage(tmp_path_factory.mktemp("events") / "home") as stage:
        stage.working.clear()
        yield stage


@pytest.fixture(autouse=True)
def nothing_waits(stage: Stage) -> None:
    drain(stage)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.fixture(scope="module")
def admin(stage: Stage) -> httpx.Client:
    keys = Keys(stage.services.database)
    return stage.client(keys.create(name="test", owner="eve", role=Role.ADMIN, limits=Limits())[1])


def submitted(client: httpx.Client, **asked: Any) -> str:
    return str(client.post("/v1/renders", json={"prompt": "a star", "model": "tiny", **asked}).json()["id"])


def drain(stage: Stage) -> None:
    """Render all that waits."""
    while stage.complete("tiny"):
        pass


def of(render: str) -> Any:
    return lambda data: data.get("id") == render


def announced(stage: Stage) -> Workers:
    workers = Workers(stage.services.database)
    workers.announce(
        NewWorker(name="w1", host="here", device="cpu:0", device_name="CPU", pid=1, models=["tiny"]),
    )
    return workers


# -- what it tells ---------------------------------------------------------------------------------------------


def test_a_stream_begins_by_saying_that_anything_may_have_changed_and_tells_what_does(stage: Stage) -> None:
    client = stage.client()
    with followed(client) as stream:
        assert next(iter(stream)).kind == "reset"
        render = submitted(client, n=3, name="stars")
        told = stream.until("render", of(render)).data
        assert (told["state"], told["name"], told["total"], told["events"]) == ("waiting", "stars", 3, 0)
        # In the same form as in lists.
        [listed] = [one for one in client.get("/v1/renders").json()["renders"] if one["id"] == render]
        assert told == {**listed, "events": 0}
        [left] = [one for one in stream.until("backlog").data if one["models"] == ["tiny"]]
        assert left == {
            "owner": "ann",
            "priority": "normal",
            "models": ["tiny"],
            "held": False,
            "renders": 1,
            "pictures": 3,
        }
        stage.complete("tiny", limit=2)
        stream.until("render", lambda data: data["id"] == render and data["done"] == 2)
        assert stream.until("job.done").data["render"] == render
        client.post(f"/v1/renders/{render}/hold")
        assert stream.until("render", of(render)).data["state"] == "held"
        client.delete(f"/v1/renders/{render}")
        told = stream.until("render", lambda data: data["id"] == render and data["cancelled"] == 1).data
        assert (told["state"], told["events"]) == ("cancelled", stage.context.events.last(render))
        gone = submitted(client)
        stream.until("render", of(gone))
        client.delete(f"/v1/renders/{gone}?purge=true")
        assert stream.until("render.deleted").data == {"id": gone}


def test_workers_are_told_of_when_they_come_change_and_go(stage: Stage) -> None:
    with followed(stage.client(), topics="workers") as stream:
        stream.until("reset")
        workers = announced(stage)
        assert stream.until("worker").data["state"] == "idle"
        workers.beat("w1", WorkerActivity(state="rendering", model="tiny", pictures=0, batch=4))
        told = stream.until("worker").data
        assert (told["name"], told["state"], told["batch"]) == ("w1", "rendering", 4)
        # That it lives on is no news.
        workers.beat("w1", WorkerActivity(state="rendering", model="tiny", pictures=0, batch=4))
        workers.forget("w1")
        assert stream.until("worker.gone").data == {"name": "w1"}
        assert [one.kind for one in stream.sent] == ["reset", "worker", "worker", "worker.gone"]


def test_a_render_that_came_and_ended_between_two_looks_is_told_of(database: Database, farm: Jobs) -> None:
    changes = FarmChanges(database)
    before = changes.since(None, with_jobs=True).seen
    render = submit(farm, pictures(1), watched=True)
    complete(farm, claim(farm))
    news = changes.since(before, with_jobs=True).news
    assert news is not None
    assert [one.kind for one in news] == ["render", "job.started", "job.done", "render.finished"]
    assert {json.loads(one.data)["id"] for one in news} == {render, f"{render}-000000"}


def test_of_very_many_changes_it_is_told_that_anything_may_have_changed(
    database: Database, farm: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm_changes, "_MOST_RENDERS", 2)
    changes = FarmChanges(database)
    before = changes.since(None, with_jobs=False).seen
    for number in range(3):
        submit(farm, pictures(1))
        found = changes.since(before, with_jobs=False)
        assert (found.news is None) == (number == 2)
    assert changes.since(found.seen, with_jobs=False).news == []


def test_of_more_unfinished_renders_than_are_read_those_on_a_device_and_new_ones_are(
    database: Database, farm: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        submit(farm, pictures(1, model="other"))
    busy = submit(farm, pictures(1))
    claim(farm)
    monkeypatch.setattr(standings, "_LATELY_SECONDS", -3600.0)
    monkeypatch.setattr(standings, "MOST", 2)
    found = RenderStandings(database).now().renders
    assert len(found) in (2, 3)
    assert found[busy].running
    monkeypatch.setattr(standings, "_LATELY_SECONDS", 3600.0)
    new = submit(farm, pictures(1))
    assert new in RenderStandings(database).now().renders


# -- to whom ---------------------------------------------------------------------------------------------------


def test_an_owner_is_told_of_their_own_alone_and_an_admin_of_all(
    stage: Stage, held: ExitStack, admin: httpx.Client
) -> None:
    ann, ben = stage.client(), stage.client(stage.new_key("ben"))
    streams = {name: held.enter_context(followed(client)) for name, client in (("ben", ben), ("eve", admin))}
    for stream in streams.values():
        stream.until("reset")
    render = submitted(ann, prompt="a secret of ann", name="anns-render", labels={"whose": "anns-label"}, n=2)
    streams["eve"].until("render", of(render))
    stage.complete("tiny", limit=1)
    streams["eve"].until("job.done")
    ann.delete(f"/v1/renders/{render}?purge=true")
    streams["eve"].until("render.deleted", of(render))
    bens = submitted(ben, name="bens-render")
    for stream in streams.values():
        stream.until("render", of(bens))
        stream.until("backlog", lambda data: any(one["owner"] == "ben" for one in data))
    told = {name: json.dumps([(one.kind, one.data) for one in stream.sent]) for name, stream in streams.items()}
    for leak in ("ann", render):
        assert leak not in told["ben"]
        assert leak in told["eve"]
    ben.delete(f"/v1/renders/{bens}")


def test_only_topics_that_were_asked_for_are_told(stage: Stage) -> None:
    client = stage.client()
    with followed(client, topics="backlog, renders") as stream:
        stream.until("reset")
        announced(stage).forget("w1")
        render = submitted(client)
        stream.until("backlog", lambda data: data != [])
        drain(stage)
        stream.until("render", lambda data: data["id"] == render and data["done"] == 1)
        stream.until("backlog", lambda data: data == [])
    assert {one.kind for one in stream.sent} == {"reset", "render", "backlog"}
    answer = client.get("/v1/events", params={"topics": "renders,weather"})
    assert answer.status_code == 422
    assert "'weather': no topic; there are renders, jobs, workers, backlog" in answer.text


def test_a_key_is_needed(stage: Stage) -> None:
    assert stage.keyless().get("/v1/events").status_code == 401


# -- from where on ---------------------------------------------------------------------------------------------


def test_whoever_comes_again_is_told_what_they_have_missed_and_each_thing_once(stage: Stage, held: ExitStack) -> None:
    client = stage.client()
    other = held.enter_context(followed(stage.client(stage.new_key()), topics="renders"))
    other.until("reset")
    with followed(client, topics="renders") as stream:
        stream.until("reset")
        first = submitted(client)
        seen = stream.until("render", of(first))
    second = submitted(client)
    other.until("render", of(second))
    for again in ({"seen": seen.id}, {"after": seen.id}):
        with followed(client, topics="renders", **again) as stream:
            stream.until("render", of(second))
            assert [one.data["id"] for one in stream.sent] == [second]


@pytest.mark.parametrize("place", ["x.7", "nonsense", "0", "-1"])
def test_whoever_comes_from_elsewhere_is_told_that_anything_may_have_changed(stage: Stage, place: str) -> None:
    with followed(stage.client(), seen=place) as stream:
        assert next(iter(stream)).kind == "reset"


def test_what_happened_while_nobody_followed_is_not_passed_over(stage: Stage) -> None:
    client = stage.client()
    with followed(client) as stream:
        place = stream.until("reset").id
    eventually(lambda: not stage.context.farm_followers.reading, "nobody reads any more")
    submitted(client)
    with followed(client, seen=place) as stream:
        assert next(iter(stream)).kind == "reset"


# -- bounded, and over when it should be -----------------------------------------------------------------------


def test_a_stream_ends_when_its_key_is_revoked_and_others_go_on(stage: Stage, held: ExitStack) -> None:
    key = stage.new_key()
    revoked, other = (held.enter_context(followed(stage.client(one))) for one in (key, stage.key))
    for stream in (revoked, other):
        stream.until("reset")
    Keys(stage.services.database).revoke(key.split("_")[1])
    revoked.ends()
    assert stage.client(key).get("/v1/events").status_code == 401
    other.until("render", of(submitted(stage.client())))


def test_streams_end_by_themselves_and_go_on_where_they_were(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.api.waiting.farm_followers._LONGEST_SECONDS", 0.5)
    with followed(stage.client()) as stream:
        stream.ends()
    monkeypatch.undo()
    with followed(stage.client(), seen=stream.sent[-1].id) as again:
        again.until("render", of(submitted(stage.client())))


def test_all_streams_of_events_share_their_places(tmp_path: Path) -> None:
    with running_stage(tmp_path / "home") as stage:
        stage.working.clear()
        stage.context.farm_followers.places = stage.context.followers.places = Places("streams of events", per_key=2)
        client = stage.client()
        render = submitted(client)
        with followed(client) as first, followed(client, f"/v1/renders/{render}/events"):
            first.until("reset")
            for path in ("/v1/events", f"/v1/renders/{render}/events"):
                answer = client.get(path)
                assert (answer.status_code, answer.headers["Retry-After"]) == (429, "10")
        eventually(lambda: stage.context.followers.places.busy == 0, "their places are free")
        eventually(lambda: not stage.context.farm_followers.reading, "nobody reads for them")


def test_however_many_follow_one_reader_reads_a_few_rows_for_all(stage: Stage, held: ExitStack) -> None:
    client = stage.client()
    sent: list[str] = []
    engine = stage.services.database.engine

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    def looks() -> int:
        return sum("FROM workers" in statement for statement in sent)

    streams = [held.enter_context(followed(client)) for _ in range(30)]
    for stream in streams:
        stream.until("reset")
    event.listen(engine, "before_cursor_execute", note)
    try:
        eventually(lambda: looks() > 5, "it is looked")
        n, m = looks(), len([one for one in sent if not one.startswith("BEGIN")])
    finally:
        event.remove(engine, "before_cursor_execute", note)
    # Keys, the time, what is unfinished, what came lately, workers; the first and the last look may be half seen.
    assert m <= 5 * (n + 1)


def test_a_look_costs_a_few_statements_however_much_has_changed(database: Database, farm: Jobs) -> None:
    changes = FarmChanges(database)
    seen: FarmSeen = changes.since(None, with_jobs=True).seen
    for _ in range(40):
        submit(farm, pictures(2), watched=True)
    complete(farm, claim(farm, limit=30))
    Deletions(database, farm).hide_render(submit(farm, pictures(1)))
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    news = changes.since(seen, with_jobs=True).news
    assert news is not None
    assert len(news) > 40
    # Behind a pooler each transaction begins with the settings, in place of the session.
    assert sum(not one.startswith(("BEGIN", "SELECT set_config(")) for one in sent) <= 7


def test_events_of_a_render_come_in_order_however_many_they_are(stage: Stage) -> None:
    client = stage.client()
    with followed(client, topics="jobs") as stream:
        stream.until("reset")
        render = submitted(client, n=150)
        drain(stage)
        done = stream.until("render.finished", of(render)).data
    assert done["done"] == 150
    seqs = [one.data["seq"] for one in stream.sent if one.data.get("render") == render]
    assert seqs == sorted(set(seqs))
