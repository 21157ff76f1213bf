"""Why a render waits: each reason brought about, and the sentence that says so."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from scheduler.results.outlook import outlook
from scheduler.services import Services
from storage.database.connection import Database, database_now
from storage.database.tables import batches, quarantines, workers
from storage.fleet.workers import NewWorker, WorkerActivity
from storage.jobs.jobs import Jobs
from storage.rules.faults import Fault
from storage.rules.states import Priority
from storage.settings import Settings
from tests.contract.renders import claim, complete, fail, pictures, submit
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, add

MODELS = '[models.tiny]\nkind = "simulated"\n[models.large]\nkind = "simulated"\n'


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    (tmp_path / "models.toml").write_text(MODELS)
    return Services(settings=Settings(home=tmp_path), database=database)


@pytest.fixture
def why(services: Services) -> Callable[[str], str | None]:
    def said(render_id: str) -> str | None:
        sentence: str | None = outlook(services, services.views.render(render_id))["why"]
        return sentence

    return said


Why = Callable[[str], str | None]


def serve(services: Services, name: str, *models: str, state: str = "idle", trouble: str | None = None) -> None:
    services.workers.announce(
        NewWorker(name=name, host="here", device="cpu", device_name="CPU", pid=1, models=models or ("tiny",))
    )
    services.workers.beat(name, WorkerActivity(state=state, model="tiny", pictures=0, trouble=trouble))


def test_no_worker_ever_ran(why: Why, farm: Jobs) -> None:
    assert why(submit(farm, pictures(1))) == "no worker runs; `farm up` starts one"


def test_no_worker_has_been_heard_of(services: Services, why: Why, farm: Jobs, database: Database) -> None:
    serve(services, "w1")
    with database.write() as connection:
        connection.execute(update(workers).values(seen_at=database_now() - 90_000))
    said = why(submit(farm, pictures(1)))
    assert said is not None
    assert re.fullmatch(
        r"no worker has been heard of since \d{4}-\d\d-\d\d \d\d:\d\d UTC; `farm up` starts one", said
    ), said


def test_on_a_farm_of_machines_workers_are_started_on_those(database: Database, farm: Jobs, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(MODELS)
    spread = Services(settings=Settings(home=tmp_path, broker_url="redis://there:6379/0"), database=database)
    render = spread.views.render(submit(farm, pictures(1)))
    assert outlook(spread, render)["why"] == "no worker runs; `farm-worker` starts one on a machine with a device"


def test_no_worker_serves_the_model(services: Services, why: Why, farm: Jobs) -> None:
    serve(services, "w1", "large")
    serve(services, "w2", "large", "other")
    assert why(submit(farm, pictures(1))) == "no worker serves tiny; 2 workers now, serving large, other"


@pytest.mark.parametrize("model", ["", "tiny"])
def test_every_worker_that_serves_it_is_in_quarantine(
    services: Services, why: Why, farm: Jobs, database: Database, model: str
) -> None:
    for name in ("w1", "w2", "other"):
        serve(services, name, "large" if name == "other" else "tiny")
    render_id = submit(farm, pictures(1))

    def quarantine(name: str, of: str, days: int) -> None:
        until = database_now() + days * 86_400
        row = {"worker": name, "model": of, "since": database_now(), "until": until, "reason": "secret prompt"}
        with database.write() as connection:
            connection.execute(insert(quarantines).values(row))

    quarantine("w1", model, 3)
    assert why(render_id) == "next in turn"
    quarantine("w2", "large", 9)
    assert why(render_id) == "next in turn"
    quarantine("w2", model if model else "tiny", 2)
    said = why(render_id)
    assert said is not None
    assert re.fullmatch(
        r"every worker that serves tiny is in quarantine, the first until \d{4}-\d\d-\d\d \d\d:\d\d UTC", said
    ), said


def test_others_are_before_it(services: Services, why: Why, farm: Jobs) -> None:
    serve(services, "w1")
    submit(farm, pictures(30))
    render_id = submit(farm, pictures(40))
    assert why(render_id) == "behind 30 pictures"
    submit(farm, pictures(1), priority=Priority.INTERACTIVE)
    assert why(render_id) == "behind 31 pictures, 1 of higher priority"
    bulk = submit(farm, pictures(1), priority=Priority.BULK)
    assert why(bulk) == "behind 71 pictures of higher priority"


def test_more_than_are_counted_are_at_least_so_many(services: Services, why: Why, farm: Jobs) -> None:
    serve(services, "w1")
    submit(farm, pictures(10_001))
    assert (
        why(submit(farm, pictures(1), priority=Priority.BULK)) == "behind at least 10,000 pictures of higher priority"
    )


def test_how_long_those_take_is_told_once_the_pace_is_known(
    services: Services, why: Why, farm: Jobs, database: Database
) -> None:
    serve(services, "w1")
    for at in range(3):
        submit(farm, pictures(4))
        found = claim(farm, limit=4)
        complete(farm, found)
        with database.write() as connection:
            stored = update(batches).where(batches.c.id == found.batch_id)
            connection.execute(stored.values(finished_at=1_795_000_000.0 + 100 * at, worker="w1"))
    submit(farm, pictures(400))
    # 1.5 s for a batch of four.
    assert why(submit(farm, pictures(4))) == "behind 400 pictures, about 2 min"


def test_its_workers_have_other_pictures_load_a_model_or_wait_themselves(
    services: Services, why: Why, farm: Jobs
) -> None:
    render_id = submit(farm, pictures(1))
    serve(services, "w1", state="rendering")
    assert why(render_id) == "next in turn: 1 worker that could render it, each with other pictures"
    serve(services, "w2", state="loading")
    assert why(render_id) == "next in turn: a worker is loading a model"
    serve(services, "w1", trouble="the store refuses")
    assert why(render_id) == "next in turn: a worker is loading a model"
    serve(services, "w2", trouble="the store refuses")
    assert why(render_id) == "every worker that serves tiny waits: the store refuses"


def test_a_fault_before_is_told(services: Services, why: Why, farm: Jobs) -> None:
    serve(services, "w1")
    render_id = submit(farm, pictures(1))
    fail(farm, claim(farm).jobs[0], "an error", fault=Fault.PIPELINE_ERROR)
    said = why(render_id)
    assert said is not None
    assert re.fullmatch(r"next in turn \(attempt \d, after a fault: pipeline error\)", said), said


def test_it_is_held_until_somebody_resumes_it(services: Services, why: Why, farm: Jobs) -> None:
    serve(services, "w1")
    render_id = submit(farm, pictures(1), held=True)
    assert why(render_id) == f"held until somebody resumes it (`farm release {render_id}`)"


def test_its_schedules_window_is_shut(why: Why, farm: Jobs, runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="22:00-01:00"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    assert firing.render_id is not None
    assert why(firing.render_id) == "held by schedule nightly until 22:00 (Europe/Paris)"
    clock.moment = TWO_AT_NIGHT + 21 * 3600
    runner.run_once()
    assert why(firing.render_id) == "no worker runs; `farm up` starts one"
    farm.hold(firing.render_id)
    assert why(firing.render_id) == f"held until somebody resumes it (`farm release {firing.render_id}`)"


def test_what_is_on_a_device_or_finished_waits_for_nothing(services: Services, why: Why, farm: Jobs) -> None:
    serve(services, "w1")
    render_id = submit(farm, pictures(2))
    first = claim(farm, limit=1)
    assert why(render_id) is None
    complete(farm, first)
    assert why(render_id) == "next in turn"
    complete(farm, claim(farm, limit=1))
    assert why(render_id) is None
