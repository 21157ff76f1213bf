"""What slots need of the rows: who waits together, who goes back, how a picture is made again, how long it waited."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob, Submission
from storage.renders.measures import Measures
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from tests.contract.renders import claim, complete, pictures, published, rendered, rows, submit


@pytest.fixture
def farm(database: Database) -> Jobs:
    return Jobs(database)


def test_pictures_for_slots_are_claimed_together_whatever_their_steps_guidance_and_sampler(farm: Jobs) -> None:
    various = [
        *pictures(1),
        *pictures(1, num_inference_steps=30, guidance_scale=1.0),
        *pictures(1, sampler="euler"),
        *pictures(1, eta=0.5),
    ]
    submit(farm, [NewJob(spec=spec, by_slots=True) for spec in various])
    submit(farm, pictures(1, num_inference_steps=31))
    submit(farm, [NewJob(spec=spec, by_slots=True) for spec in pictures(1, width=128)])

    assert [job.spec for job in claim(farm).jobs] == various
    assert [len(claim(farm).jobs) for _ in range(2)] == [1, 1]


def test_jobs_that_waited_with_loras_in_their_key_are_claimed_by_it_and_all_are_made(
    farm: Jobs, database: Database
) -> None:
    # As a farm wrote them in which pictures with other LoRAs had calls of their own.
    old = submit(farm, [NewJob(spec=spec, by_slots=True) for spec in pictures(3, loras={"ink": 1.0})])
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.render_id == old).values(batch_key="0123456789abcdef"))
    # Nor had all jobs a key of slots.
    batches = submit(farm, pictures(2, loras={"oil": 1.0}))
    new = submit(farm, [NewJob(spec=spec, by_slots=True) for spec in pictures(3, loras={"oil": 0.5})])

    held = [claim(farm) for _ in range(3)]
    assert [{job.render_id for job in one.jobs} for one in held] == [{old}, {batches}, {new}]
    # What is in hand goes by what its specification says today: all of them share calls.
    assert len({job.spec.loop_key() for one in held for job in one.jobs}) == 1
    for one in held:
        complete(farm, one)
    assert {row.state for render in (old, batches, new) for row in rows(database, render)} == {State.DONE}


def test_what_was_claimed_ahead_goes_back_without_burning_an_attempt(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    held = claim(farm)

    assert farm.give_back(held.jobs[1:]) == 2
    assert farm.give_back(held.jobs[1:]) == 0

    states = [(row.state, row.attempt, row.lease_until is None) for row in rows(database, render_id)]
    assert states == [(State.RUNNING, 1, False), (State.QUEUED, 0, True), (State.QUEUED, 0, True)]
    # Whoever gave a job back can no longer complete it.
    assert complete(farm, replace(held, jobs=held.jobs[1:])) == dict.fromkeys(
        (job.id for job in held.jobs[1:]), State.QUEUED
    )


def test_what_goes_back_to_a_render_that_is_held_is_held(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    held = claim(farm)
    farm.hold(render_id)

    farm.give_back(held.jobs)

    assert [row.state for row in rows(database, render_id)] == [State.HELD, State.HELD]


def test_a_claim_tells_how_a_picture_is_to_be_made(farm: Jobs) -> None:
    calls = '{"calls": [[16, 1, 2, 8]], "decoded": [2, 1]}'
    farm.submit(pictures(1), Submission(owner="ann", priority=Priority.NORMAL, replay=calls), quanta={"tiny": 8})
    assert claim(farm).jobs[0].replay == calls

    submit(farm, pictures(2), together=True)
    assert [(job.together, job.replay) for job in claim(farm).jobs] == [(True, None), (True, None)]

    submit(farm, pictures(1))
    [job] = claim(farm).jobs
    assert (job.together, job.suspect) == (False, False)
    farm.recover([job], Fault.WORKER_DIED, "died")
    assert claim(farm, worker="w2").jobs[0].suspect


def test_what_waits_on_after_its_claim_waited_until_its_first_call(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    held = claim(farm)
    with database.write() as connection:
        connection.execute(
            update(renders).where(renders.c.id == render_id).values(created_at=renders.c.created_at - 10_000)
        )
    batch = replace(rendered(held), render_seconds=0.5, elapsed_seconds=3000.0, store_seconds=200.0)
    farm.complete(batch, published(*held.jobs))

    [spent] = Measures(database).stages(within_seconds=60).values()
    assert spent.queue == pytest.approx(6800, abs=60)
    assert (spent.render, spent.store) == (3000, 200)
    assert Measures(database).first_calls(within_seconds=60) == {("tiny", Priority.NORMAL): pytest.approx(6800, abs=60)}
