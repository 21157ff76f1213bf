"""When a render will be done: by the pace of workers at work, however long they had nothing to do."""

from pathlib import Path

import pytest
from sqlalchemy import update

from scheduler.intake.estimate import Estimate
from scheduler.results.outlook import outlook, outlook_of_new
from scheduler.services import Services
from storage.database.connection import Database
from storage.database.tables import batches
from storage.fleet.workers import NewWorker, WorkerActivity
from storage.jobs.jobs import Jobs
from storage.rules.states import Priority
from storage.settings import Settings
from tests.contract.renders import claim, complete, pictures, submit

#: Of each batch (`tests.contract.renders.rendered`), and the pictures in it.
CALL, BATCH = 1.5, 4
MOMENT = 1_795_000_000.0


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    (tmp_path / "models.toml").write_text('[models.tiny]\nkind = "simulated"\n')
    return Services(settings=Settings(home=tmp_path), database=database)


def serve(services: Services, *names: str, state: str = "idle") -> None:
    for name in names:
        services.workers.announce(
            NewWorker(name=name, host="here", device="cpu", device_name="CPU", pid=1, models=["tiny"])
        )
        services.workers.beat(name, WorkerActivity(state=state, model="tiny", pictures=0))


def made(services: Services, farm: Jobs, *times: float, worker: str = "w1") -> None:
    """Render a batch for each of these times at which it is stored, in seconds from some moment."""
    for at in times:
        submit(farm, pictures(BATCH))
        found = claim(farm, limit=BATCH, worker=worker)
        complete(farm, found)
        with services.database.write() as connection:
            stored = update(batches).where(batches.c.id == found.batch_id)
            connection.execute(stored.values(finished_at=MOMENT + at, worker=worker))


def left(services: Services, render_id: str) -> float | None:
    seconds: float | None = outlook(services, services.views.render(render_id))["seconds_left"]
    return seconds


@pytest.mark.parametrize("idle", [5, 60, 3600, 86_400])
def test_idle_time_is_not_counted_into_the_pace(services: Services, farm: Jobs, idle: float) -> None:
    serve(services, "w1")
    made(services, farm, -3 * idle, -2 * idle, -idle)
    assert left(services, submit(farm, pictures(40))) == pytest.approx(40 / BATCH * CALL)


def test_work_beside_the_pipeline_call_is(services: Services, farm: Jobs) -> None:
    serve(services, "w1")
    made(services, farm, *(-100 + 2.0 * n for n in range(20)))
    assert left(services, submit(farm, pictures(40))) == pytest.approx(40 / BATCH * 2.0, rel=0.02)


def test_what_is_ahead_counts_and_workers_share_it(services: Services, farm: Jobs) -> None:
    serve(services, "w1", "w2", "new")
    serve(services, "away", state="quarantined")
    made(services, farm, -50, worker="w1")
    made(services, farm, -50, worker="w2")
    submit(farm, pictures(20))
    render_id = submit(farm, pictures(40))
    expected = outlook(services, services.views.render(render_id))
    assert expected["position"] == 20
    # "new" is taken to be like the others.
    assert expected["seconds_left"] == pytest.approx(60 / BATCH * CALL / 3, rel=0.01)


def test_more_steps_take_longer(services: Services, farm: Jobs) -> None:
    serve(services, "w1")
    made(services, farm, -50)
    assert left(services, submit(farm, pictures(4, num_inference_steps=80))) == pytest.approx(10 * CALL)


def test_nobody_knows_when_a_held_render_ends(services: Services, farm: Jobs) -> None:
    serve(services, "w1")
    made(services, farm, -50)
    render_id = submit(farm, pictures(4), held=True)
    expected = outlook(services, services.views.render(render_id))
    assert (expected["position"], expected["seconds_left"]) == (None, None)
    farm.release(render_id)
    assert left(services, render_id) == pytest.approx(CALL)


def test_without_workers_or_batches_nothing_is_promised(services: Services, farm: Jobs) -> None:
    render_id = submit(farm, pictures(4))
    assert left(services, render_id) is None
    serve(services, "w1")
    assert left(services, render_id) is None


def test_what_would_be_submitted_waits_behind_what_is_there(services: Services, farm: Jobs) -> None:
    serve(services, "w1", "w2")
    submit(farm, pictures(30))
    submit(farm, pictures(30), priority=Priority.BULK)
    new = Estimate(pictures=10, batches=2, device_seconds=20.0, bytes=1, models=("tiny",))
    assert outlook_of_new(services, new, Priority.NORMAL) == {"position": 30, "seconds_left": 40.0}
    assert outlook_of_new(services, new, Priority.BULK) == {"position": 60, "seconds_left": 70.0}
