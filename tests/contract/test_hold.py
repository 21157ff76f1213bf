"""Renders that are kept out of the queue, and let in again."""

from typing import Any

import pytest
from sqlalchemy import update

from scheduler.background.sweep import Sweep
from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.fleet.fault_log import FaultLog
from storage.jobs.jobs import Jobs
from storage.renders.views import Views
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from storage.spec.registry import parse_registry
from tests.contract.renders import assert_rows_agree, claim, complete, drain, fail, pictures, states, submit


def test_what_is_held_is_not_claimed_until_it_is_released(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))

    assert farm.hold(render_id) == 3
    assert farm.claim(model="tiny", worker="w1", limit=8) is None
    assert Views(database).render(render_id).state == "held"

    assert farm.release(render_id) == 3
    assert Views(database).render(render_id).state == "waiting"
    assert [job.index for job in drain(farm)] == [0, 1, 2]


def test_what_runs_goes_on_while_the_rest_is_held(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    found = claim(farm, limit=1)

    assert farm.hold(render_id) == 2
    complete(farm, found)

    assert states(database, render_id) == [State.DONE, State.HELD, State.HELD]
    assert_rows_agree(database)


def test_what_comes_back_of_a_held_render_is_held_with_it(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(4))
    returned, lost, failed = (claim(farm, limit=1, worker=f"w{n}") for n in range(3))
    farm.hold(render_id)

    assert farm.requeue_from_worker(worker="w0") == 1
    assert list(farm.recover(lost.jobs, Fault.STORE_AWAY, "away").values()) == [State.HELD]
    assert fail(farm, failed.jobs[0], "nothing to be done") is State.FAILED
    assert farm.retry(render_id, quanta={"tiny": 8}) == 1

    assert states(database, render_id) == [State.HELD] * 4
    assert farm.release(render_id) == 4
    assert returned.jobs[0].index == 0
    assert_rows_agree(database)


def test_holding_and_releasing_may_be_repeated(farm: Jobs) -> None:
    render_id = submit(farm, pictures(2))
    assert [farm.hold(render_id), farm.hold(render_id)] == [2, 0]
    assert [farm.release(render_id), farm.release(render_id)] == [2, 0]


def test_a_render_may_be_accepted_held(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2), held=True)
    assert states(database, render_id) == [State.HELD] * 2
    assert farm.release(render_id) == 2
    assert len(drain(farm)) == 2


def test_what_is_held_can_be_cancelled(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    farm.hold(render_id)
    assert farm.cancel(render_id) == 2
    assert Views(database).render(render_id).state == "cancelled"
    assert farm.release(render_id) == 0
    assert_rows_agree(database)


def test_a_released_render_does_not_overtake_whoever_was_served_meanwhile(farm: Jobs) -> None:
    held = submit(farm, pictures(4), owner="ann", quantum=2)
    farm.hold(held)
    submit(farm, pictures(8), owner="bob", quantum=2)
    for _ in range(2):
        complete(farm, claim(farm, limit=2))

    farm.release(held)

    # Bob's third turn is being served; Ann's first stands beside it, with the older jobs before.
    assert [job.render_id == held for job in drain(farm, limit=2)] == [True, True, False, False] * 2


def test_what_is_held_can_be_given_another_priority(farm: Jobs, database: Database) -> None:
    urgent, usual = submit(farm, pictures(2)), submit(farm, pictures(2), owner="bob")
    farm.hold(urgent)

    assert farm.reprioritise(urgent, Priority.INTERACTIVE, quanta={"tiny": 8}) == 2
    assert Views(database).render(urgent).priority is Priority.INTERACTIVE
    assert states(database, urgent) == [State.HELD, State.HELD]
    farm.release(urgent)

    assert [job.render_id for job in drain(farm, limit=2)] == [urgent, urgent, usual, usual]


@pytest.mark.parametrize("held", [True, False])
def test_the_sweep_puts_right_what_does_not_follow_its_render(farm: Jobs, database: Database, held: bool) -> None:
    finished, wrong, right = submit(farm, pictures(1)), submit(farm, pictures(4)), submit(farm, pictures(3))
    complete(farm, claim(farm, limit=1))
    running = claim(farm, limit=1)
    farm.hold(right)
    with database.write() as connection:
        # As an operator's own query might leave it, or a version of the farm that let the two part.
        connection.execute(update(renders).where(renders.c.id.in_([finished, wrong])).values(held=held))
        waits = (jobs.c.render_id == wrong) & (jobs.c.index == 2)
        connection.execute(update(jobs).where(waits).values(state=State.QUEUED if held else State.HELD))
    unused: Any = None
    models = parse_registry('[models.unused]\nkind = "simulated"', where="here")
    sweep = Sweep(
        jobs=farm,
        faults=FaultLog(database),
        tickets=unused,
        registry=models,
        every_seconds=2,
        renew_seconds=10,
        lease_seconds=30,
    )

    sweep.run_once()

    expected = State.HELD if held else State.QUEUED
    assert states(database, wrong) == [State.RUNNING, *[expected] * 3]
    assert states(database, right) == [State.HELD] * 3
    assert farm.put_right() == 0
    complete(farm, running)
