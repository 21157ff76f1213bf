"""What a person asks of jobs already accepted, and what is told about those that wait, on both databases."""

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.renders.views import Views
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from tests.contract.renders import claim, complete, drain, fail, pictures, published, rendered, states, submit

# -- cancelling ------------------------------------------------------------------------------------------------


def test_a_cancel_ends_what_waits_and_what_runs_and_leaves_what_is_done(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(4))
    complete(farm, claim(farm, limit=1))
    running = claim(farm, limit=1)
    assert farm.cancel(render_id) == 3
    assert states(database, render_id) == [State.DONE, State.CANCELLED, State.CANCELLED, State.CANCELLED]
    assert Views(database).render(render_id).state == "cancelled"
    assert complete(farm, running) == {running.jobs[0].id: State.CANCELLED}
    assert fail(farm, running.jobs[0], "too late") is None
    assert farm.renew(running.jobs) == set()
    assert farm.claim(model="tiny", worker="w1", limit=8) is None


def test_cancelling_again_or_too_late_does_nothing(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    assert farm.cancel(render_id) == 2
    finished_at = Views(database).render(render_id).finished_at
    assert farm.cancel(render_id) == 0
    assert farm.cancel("000000000000") == 0
    assert Views(database).render(render_id).finished_at == finished_at


def test_a_cancel_reaches_no_other_render(farm: Jobs, database: Database) -> None:
    one, two = submit(farm, pictures(1)), submit(farm, pictures(1))
    found = claim(farm)
    farm.cancel(one)
    assert complete(farm, found) == {found.jobs[0].id: State.CANCELLED}
    assert states(database, two) == [State.DONE]


# -- asking again ----------------------------------------------------------------------------------------------


def test_a_retry_queues_what_failed_and_nothing_else(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    found = claim(farm, limit=2)
    farm.complete(rendered(found), published(found.jobs[0]))
    fail(farm, found.jobs[1], "black picture")
    farm.cancel(render_id)
    assert farm.retry(render_id, quanta={"tiny": 8}) == 1
    assert states(database, render_id) == [State.DONE, State.QUEUED, State.CANCELLED]
    view = Views(database).render(render_id)
    assert (view.state, view.failed, view.finished_at) == ("waiting", 0, None)
    [again] = claim(farm).jobs
    assert (again.attempt, again.fence) == (1, 2)


def test_a_retry_of_nothing_does_nothing(farm: Jobs) -> None:
    render_id = submit(farm, pictures(1))
    assert farm.retry(render_id, quanta={"tiny": 8}) == 0
    complete(farm, claim(farm))
    assert farm.retry(render_id, quanta={"tiny": 8}) == 0
    assert farm.retry("000000000000", quanta={"tiny": 8}) == 0


def test_a_retried_job_has_all_its_attempts_again(farm: Jobs) -> None:
    render_id = submit(farm, pictures(1))
    for _ in range(2):
        outcomes = [fail(farm, claim(farm).jobs[0], "black picture", fault=Fault.PIPELINE_ERROR) for _ in range(3)]
        assert outcomes == [State.QUEUED, State.QUEUED, State.FAILED]
        assert farm.retry(render_id, quanta={"tiny": 8}) == 1


# -- what waits ------------------------------------------------------------------------------------------------


def test_waiting_jobs_are_counted_by_model_and_priority_up_to_a_limit(farm: Jobs) -> None:
    submit(farm, pictures(5))
    submit(farm, pictures(2), priority=Priority.BULK)
    submit(farm, pictures(1, model="other"))
    claim(farm, limit=1)
    assert farm.waiting("tiny", Priority.NORMAL, at_most=100) == 4
    assert farm.waiting("tiny", Priority.NORMAL, at_most=3) == 3
    assert farm.waiting("tiny", Priority.BULK, at_most=100) == 2
    assert farm.waiting("tiny", Priority.INTERACTIVE, at_most=100) == 0
    assert farm.waiting("unknown", Priority.NORMAL, at_most=100) == 0
    assert farm.waiting_each("tiny", [Priority.BULK, Priority.NORMAL], at_most=3) == {
        Priority.BULK: 2,
        Priority.NORMAL: 3,
    }
    assert farm.waiting_each("tiny", [], at_most=3) == {}


def test_the_best_waiting_priority_is_told_for_each_model_that_has_work(farm: Jobs) -> None:
    submit(farm, pictures(1), priority=Priority.BULK)
    submit(farm, pictures(1), priority=Priority.NORMAL)
    submit(farm, pictures(1, model="other"), priority=Priority.BULK)
    assert farm.best_waiting(["tiny", "other", "unknown"]) == {"tiny": Priority.NORMAL, "other": Priority.BULK}
    drain(farm)
    assert farm.best_waiting(["tiny", "other"]) == {"other": Priority.BULK}
    assert farm.best_waiting([]) == {}


def test_a_claim_tells_what_it_leaves_waiting(farm: Jobs) -> None:
    submit(farm, pictures(2), priority=Priority.BULK)
    submit(farm, pictures(2), priority=Priority.INTERACTIVE)
    assert [claim(farm, limit=1).next_priority for _ in range(4)] == [
        Priority.INTERACTIVE,
        Priority.BULK,
        Priority.BULK,
        None,
    ]
