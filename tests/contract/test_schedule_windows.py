"""Windows hold and release the pictures of schedules."""

from dataclasses import replace

import pytest

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.views import Views
from storage.rules.states import State
from storage.settings import Settings
from tests.contract.renders import claim, states
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, add, finish


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


def test_pictures_are_rendered_within_the_window_only(
    runner: ByTurns, clock: Clock, farm: Jobs, database: Database
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="03:00-06:00", overlap="queue"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    render_id = str(firing.render_id)
    assert states(database, render_id) == [State.HELD] * 2

    clock.moment += 3600
    runner.run_once()
    assert states(database, render_id) == [State.QUEUED] * 2
    running = claim(farm, limit=1)

    clock.moment += 3 * 3600
    runner.run_once()
    assert states(database, render_id) == [State.RUNNING, State.HELD]
    farm.requeue_from_worker(worker="w1")  # it is stopped
    assert states(database, render_id) == [State.HELD] * 2

    clock.moment += 21 * 3600
    runner.run_once()
    finish(farm, 2)
    assert Views(database).render(render_id).state == "done"
    assert running.jobs[0].render_id == render_id


def test_between_the_edges_of_a_window_people_hold_and_release_as_they_like(
    runner: ByTurns, clock: Clock, farm: Jobs, database: Database
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="03:00-06:00"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    render_id = str(runner.schedules.history(schedule)[0].render_id)
    farm.release(render_id)
    runner.run_once()
    assert states(database, render_id) == [State.QUEUED] * 2, "released by hand before it opens"

    clock.moment += 3600
    runner.run_once()
    farm.hold(render_id)
    clock.moment += 3600
    runner.run_once()
    assert states(database, render_id) == [State.HELD] * 2, "held by hand while it is open"

    clock.moment += 3 * 3600
    runner.run_once()
    clock.moment += 20 * 3600
    runner.run_once()
    assert states(database, render_id) == [State.QUEUED] * 2, "opened again"
