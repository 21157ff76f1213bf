"""Accepting renders, and every move of a job that a worker makes or loses, on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.errors import BadSpecification
from storage.fleet.workers import NewWorker, Workers
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob
from storage.renders.views import Views
from storage.rules.faults import Fault, RetryPolicy
from storage.rules.states import State
from storage.spec.picture import Spec
from tests.contract.renders import (
    claim,
    complete,
    died,
    fail,
    lapse_leases,
    pictures,
    published,
    rendered,
    rows,
    states,
    submit,
)

# -- accepting -------------------------------------------------------------------------------------------------


def test_a_render_is_accepted_whole(farm: Jobs, database: Database) -> None:
    specs = pictures(2500)
    render_id = submit(farm, iter(specs))
    accepted = rows(database, render_id)
    assert [row._mapping["index"] for row in accepted] == list(range(2500))
    assert [row.spec for row in accepted] == [spec.canonical() for spec in specs]
    assert [row.seed for row in accepted] == [spec.seed for spec in specs]
    assert {row.state for row in accepted} == {State.QUEUED}


def test_a_render_whose_manifest_breaks_off_midway_leaves_nothing(farm: Jobs, database: Database) -> None:
    def manifest() -> Iterator[Spec]:
        yield from pictures(1500)
        raise BadSpecification("line 1501: width: must be a multiple of 8")

    with pytest.raises(BadSpecification, match="line 1501"):
        submit(farm, manifest())
    with database.read() as connection:
        assert connection.execute(select(jobs.c.id)).first() is None
        assert connection.execute(select(renders.c.id)).first() is None


def test_a_render_of_nothing_is_refused_and_leaves_nothing(farm: Jobs, database: Database) -> None:
    with pytest.raises(BadSpecification, match="nothing to render"):
        submit(farm, [])
    assert Views(database).renders() == []


def test_a_seed_and_a_prompt_come_back_exactly(farm: Jobs) -> None:
    [spec] = pictures(1, seed=2**63 - 1, prompt="😀 \u202eשלום 'quoted'; -- \\ %s :x {}")
    submit(farm, [spec])
    assert claim(farm).jobs[0].spec == spec


# -- claiming --------------------------------------------------------------------------------------------------


def test_a_batch_starts_at_one_moment(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(8))
    claim(farm, limit=8)
    with database.read() as connection:
        moments = connection.execute(select(jobs.c.started_at, jobs.c.lease_until).distinct()).all()
    assert len(moments) == 1


def test_a_claim_raises_fence_and_attempt_and_gives_a_lease(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    for number in (1, 2, 3):
        [job] = claim(farm, worker=f"w{number}").jobs
        assert (job.fence, job.attempt) == (number, number)
        [row] = rows(database, render_id)
        assert (row.state, row.worker, row.fence, row.attempt) == (State.RUNNING, f"w{number}", number, number)
        assert row.lease_until == pytest.approx(row.started_at + 30, abs=1)
        fail(farm, job, "no memory for it", fault=Fault.PIPELINE_ERROR)


def test_nothing_is_claimed_where_nothing_waits(farm: Jobs) -> None:
    assert farm.claim(model="tiny", worker="w1", limit=8) is None
    submit(farm, pictures(1, model="other"))
    assert farm.claim(model="tiny", worker="w1", limit=8) is None


def test_every_claim_has_a_name_of_its_own(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(2))
    names = {claim(farm, limit=1).batch_id, claim(farm, limit=1).batch_id}
    lapse_leases(database)
    farm.recover_lapsed()
    names |= {claim(farm, limit=1).batch_id, claim(farm, limit=1).batch_id}
    assert len(names) == 4


# -- keeping ---------------------------------------------------------------------------------------------------


def test_renewing_moves_the_end_of_the_lease(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    held = claim(farm).jobs
    before = [row.lease_until for row in rows(database, render_id)]
    assert Jobs(database, RetryPolicy(lease_seconds=60)).renew(held) == {job.id for job in held}
    after = [row.lease_until for row in rows(database, render_id)]
    assert after == [pytest.approx(moment + 30, abs=1) for moment in before]


def test_renewing_tells_which_jobs_were_lost(farm: Jobs) -> None:
    submit(farm, pictures(1))
    cancelled_render = submit(farm, pictures(1))
    kept, cancelled = claim(farm).jobs
    farm.cancel(cancelled_render)
    assert farm.renew([kept, cancelled]) == {kept.id}
    assert farm.still_held([kept, cancelled]) == {kept.id}
    assert farm.renew([]) == set()
    assert farm.still_held([]) == set()


def test_a_lease_that_ran_out_is_good_again_once_renewed_in_time(farm: Jobs, database: Database) -> None:
    # A pause shorter than a sweep costs nobody anything.
    submit(farm, pictures(1))
    held = claim(farm).jobs
    lapse_leases(database)
    assert farm.renew(held) == {held[0].id}
    assert farm.recover_lapsed() == 0


def test_asking_what_is_still_held_renews_nothing(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(1))
    held = claim(farm).jobs
    lapse_leases(database)
    assert farm.still_held(held) == {held[0].id}
    assert farm.recover_lapsed() == 1


# -- completing ------------------------------------------------------------------------------------------------


def test_a_completed_job_tells_what_was_made_when_and_with_whom(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    found = claim(farm)
    assert complete(farm, found) == {}
    for row, job in zip(rows(database, render_id), found.jobs, strict=True):
        assert (row.state, row.batch_id) == (State.DONE, found.batch_id)
        assert (row.object, row.sha256) == (f"renders/{render_id}/{job.index:06d}.png", f"{job.id:064x}")
        assert row.pixels_sha256 == f"{job.index:064x}"
        assert row.bytes == 1000 + job.index
        assert row.finished_at >= row.started_at
    batch = Views(database).batch(found.batch_id)
    assert batch.job_row_ids == [job.id for job in found.jobs]
    assert batch.recipe == {"torch": "2.13", "dtype": "float32"}
    assert (batch.worker, batch.render_seconds) == ("w1", 1.5)


def test_completing_twice_counts_once(farm: Jobs, database: Database) -> None:
    # The answer to the first commit may have been lost on its way.
    render_id = submit(farm, pictures(2))
    found = claim(farm)
    assert complete(farm, found) == {}
    first = rows(database, render_id)
    assert complete(farm, found) == {}
    assert rows(database, render_id) == first
    assert Views(database).render(render_id).done == 2


def test_a_batch_may_be_completed_in_parts(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    found = claim(farm)
    for job in found.jobs:
        assert farm.complete(rendered(found), published(job)) == {}
    assert states(database, render_id) == [State.DONE] * 3
    assert Views(database).batch(found.batch_id).job_row_ids == [job.id for job in found.jobs]


def test_a_render_is_finished_exactly_when_its_last_job_ends(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(4))
    view = Views(database).render
    found = claim(farm)
    first, second, third, fourth = found.jobs
    farm.complete(rendered(found), published(first, second))
    assert (view(render_id).state, view(render_id).finished_at) == ("running", None)
    fail(farm, third, "black picture")
    assert (view(render_id).state, view(render_id).finished_at) == ("running", None)
    farm.complete(rendered(found), published(fourth))
    assert view(render_id).state == "failed"
    assert view(render_id).finished_at == pytest.approx(rows(database, render_id)[3].finished_at, abs=0.5)


def test_a_batch_of_two_renders_counts_for_each(farm: Jobs, database: Database) -> None:
    one, two = submit(farm, pictures(1)), submit(farm, pictures(2))
    complete(farm, claim(farm))
    assert [Views(database).render(render_id).done for render_id in (one, two)] == [1, 2]


# -- failing ---------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again_until_none_is_left(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    outcomes = [fail(farm, claim(farm).jobs[0], f"out of memory ({n})", fault=Fault.PIPELINE_ERROR) for n in (1, 2, 3)]
    assert outcomes == [State.QUEUED, State.QUEUED, State.FAILED]
    [row] = rows(database, render_id)
    assert (row.attempt, row.error) == (3, "out of memory (3), in attempt 3")
    assert farm.claim(model="tiny", worker="w1", limit=8) is None


def test_a_final_failure_is_not_tried_again(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    bad, good = claim(farm).jobs
    assert fail(farm, bad, "the prompt cannot be encoded") is State.FAILED
    assert fail(farm, bad, "the prompt cannot be encoded") is None
    assert states(database, render_id) == [State.FAILED, State.RUNNING]
    assert farm.renew([good]) == {good.id}


def test_a_retried_job_carries_no_old_error(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    fail(farm, claim(farm).jobs[0], "out of memory", fault=Fault.PIPELINE_ERROR)
    complete(farm, claim(farm))
    assert rows(database, render_id)[0].error is None


# -- a worker that lost its lease ------------------------------------------------------------------------------


def test_a_worker_whose_job_was_given_to_another_changes_nothing(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    stale = claim(farm, worker="frozen")
    lapse_leases(database)
    assert farm.recover_lapsed() == 1
    current = claim(farm, worker="w2")
    before = rows(database, render_id)
    job = stale.jobs[0]
    assert complete(farm, stale) == {job.id: State.RUNNING}
    assert fail(farm, job, "too late") is None
    assert farm.renew([job]) == set()
    assert farm.still_held([job]) == set()
    assert rows(database, render_id) == before
    assert complete(farm, current) == {}
    assert complete(farm, stale) == {job.id: State.DONE}
    assert rows(database, render_id)[0].batch_id == current.batch_id


def test_a_worker_whose_job_waits_again_changes_nothing(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    stale = claim(farm)
    lapse_leases(database)
    farm.recover_lapsed()
    before = rows(database, render_id)
    assert complete(farm, stale) == {stale.jobs[0].id: State.QUEUED}
    assert fail(farm, stale.jobs[0], "too late") is None
    assert farm.renew(stale.jobs) == set()
    assert rows(database, render_id) == before


def test_a_batch_of_which_nothing_counted_is_not_recorded(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    found = claim(farm)
    farm.cancel(render_id)
    complete(farm, found)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM batches").scalar_one() == 0


# -- taking back -----------------------------------------------------------------------------------------------


def test_a_dead_worker_gives_its_jobs_back_when_their_leases_run_out(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    claim(farm, limit=2)
    assert farm.recover_lapsed() == 0
    lapse_leases(database)
    assert farm.recover_lapsed() == 2
    assert farm.recover_lapsed() == 0
    assert states(database, render_id) == [State.QUEUED] * 3
    assert [row.attempt for row in rows(database, render_id)] == [0, 0, 0]


def test_a_job_whose_workers_vanish_fails_after_the_last_attempt_and_says_why(farm: Jobs, database: Database) -> None:
    # The first time a machine may have been switched off; from then on it was alone with the job.
    render_id = submit(farm, pictures(1))
    for _ in range(4):
        assert Views(database).render(render_id).failed == 0
        claim(farm)
        lapse_leases(database)
        assert farm.recover_lapsed() == 1
    [row] = rows(database, render_id)
    assert row.state == State.FAILED
    assert "lease" in row.error
    assert "3" in row.error
    assert Views(database).render(render_id).state == "failed"


def test_a_killed_worker_gives_its_jobs_back_and_the_attempt_counts(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    claim(farm, limit=2, worker="killed")
    kept = claim(farm, limit=1, worker="alive")
    assert died(farm, worker="killed") == 2
    assert states(database, render_id) == [State.QUEUED, State.QUEUED, State.RUNNING]
    assert [row.attempt for row in rows(database, render_id)] == [1, 1, 1]
    assert farm.renew(kept.jobs) == {kept.jobs[0].id}
    assert died(farm, worker="killed") == 0


def test_a_job_that_kills_its_workers_fails_after_the_last_attempt(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    for _ in range(3):
        claim(farm, worker="killed")
        assert died(farm, worker="killed") == 1
    [row] = rows(database, render_id)
    assert row.state == State.FAILED
    assert "died" in row.error


def test_a_worker_told_to_stop_gives_its_jobs_back_without_burning_an_attempt(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    for _ in range(5):
        stopped = claim(farm, worker="stopping")
        assert farm.requeue_from_worker(worker="stopping") == 1
    [row] = rows(database, render_id)
    assert (row.state, row.attempt, row.fence) == (State.QUEUED, 0, 5)
    assert complete(farm, stopped) == {stopped.jobs[0].id: State.QUEUED}


def test_only_the_run_that_has_a_workers_name_may_give_its_jobs_back(farm: Jobs, database: Database) -> None:
    worker = NewWorker(name="twin", host="h", device="cpu:0", device_name="cpu", pid=1, models=["tiny"])
    Workers(database, run="first").announce(worker)
    submit(farm, pictures(1))
    claim(farm, worker="twin")
    assert farm.requeue_from_worker(worker="twin", run="second") == 0
    assert farm.recover_from_worker(worker="twin", fault=Fault.WORKER_DIED, message="died", run="second") == 0
    assert farm.requeue_from_worker(worker="twin", run="first") == 1


def test_the_number_of_attempts_is_a_setting(database: Database) -> None:
    once = Jobs(database, RetryPolicy(max_attempts=1))
    render_id = submit(once, pictures(1))
    assert fail(once, claim(once).jobs[0], "black picture", fault=Fault.PIPELINE_ERROR) is State.FAILED
    assert Views(database).render(render_id).failed == 1


def test_names_and_labels_travel_with_their_pictures(farm: Jobs, database: Database) -> None:
    first, second = pictures(2)
    labels = {"topic": "cats", "weight": 0.5, "tags": ["a", "ü"]}
    render_id = submit(farm, [NewJob(spec=first, custom_id="cat/1", labels=labels), NewJob(spec=second)])

    found = list(Views(database).jobs(render_id))
    assert [(job.custom_id, job.labels) for job in found] == [("cat/1", labels), (None, None)]


@pytest.mark.parametrize("apart", [1, 1500])
def test_a_name_that_is_there_twice_is_refused_with_both_places(farm: Jobs, database: Database, apart: int) -> None:
    wanted = [NewJob(spec=spec, custom_id=f"id {number}") for number, spec in enumerate(pictures(apart))]
    wanted.append(NewJob(spec=wanted[0].spec, custom_id="id 0"))

    with pytest.raises(BadSpecification, match=f"duplicate custom_id 'id 0', for pictures 1 and {apart + 1}"):
        submit(farm, wanted)

    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(renders)).scalar_one() == 0


def test_two_renders_may_use_the_same_names(farm: Jobs) -> None:
    for _ in range(2):
        submit(farm, [NewJob(spec=spec, custom_id="the one") for spec in pictures(1)])
