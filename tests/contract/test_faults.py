"""What faults do to jobs and workers, how they are written down, and what is learned from them, on both databases."""

import pytest
from sqlalchemy import func, select, update

from storage.database.connection import Database, database_now
from storage.database.tables import faults, jobs, memory_limits, quarantines, workers
from storage.fleet.fault_log import FaultLog
from storage.fleet.memory_limits import Load, MemoryLimit, MemoryLimits
from storage.fleet.workers import NewWorker, Workers
from storage.jobs.jobs import Jobs
from storage.renders.views import Views
from storage.rules.faults import Fault, RetryPolicy
from storage.rules.states import State
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


@pytest.fixture
def log(database: Database) -> FaultLog:
    return FaultLog(database)


def present(database: Database, *names: str, models: tuple[str, ...] = ("tiny",)) -> None:
    """Workers that serve these models and were heard of just now."""
    for name in names:
        Workers(database).announce(
            NewWorker(name=name, host="h", device="cpu:0", device_name="cpu", pid=1, models=models)
        )


def later(database: Database, seconds: float) -> None:
    """As if so many seconds had passed for what is waited for."""
    with database.write() as connection:
        connection.execute(update(jobs).values(elsewhere_until=jobs.c.elsewhere_until - seconds))
        connection.execute(update(quarantines).values(until=quarantines.c.until - seconds))
        connection.execute(update(faults).values(at=faults.c.at - seconds))
        connection.execute(update(memory_limits).values(learned_at=memory_limits.c.learned_at - seconds))


# -- writing down ----------------------------------------------------------------------------------------------


def test_a_fault_is_written_down_by_job_and_shown_in_the_row(farm: Jobs, log: FaultLog, database: Database) -> None:
    render_id = submit(farm, pictures(2))
    first, _ = claim(farm).jobs
    fail(farm, first, "the prompt cannot be encoded")
    [row, other] = rows(database, render_id)
    assert (row.fault, row.error) == (Fault.BAD_SPECIFICATION, "the prompt cannot be encoded")
    assert (other.fault, other.error) == (None, None)
    [seen] = log.latest(limit=10)
    assert (seen.fault, seen.job, seen.worker, seen.model) == (
        Fault.BAD_SPECIFICATION,
        f"{render_id}-000000",
        "w1",
        "tiny",
    )
    assert (seen.attempt, seen.message) == (1, "the prompt cannot be encoded")


def test_the_faults_of_one_job_are_told_newest_first(farm: Jobs, log: FaultLog, database: Database) -> None:
    present(database, "w0", "w1")
    render = submit(farm, pictures(2))
    for number in range(2):
        for job in claim(farm, worker=f"w{number}").jobs:
            fail(farm, job, f"fell over {number}", fault=Fault.PIPELINE_ERROR)
        later(database, 3600)
    one, other = Views(database).jobs(render)
    met = log.of_job(one.row_id, limit=10)
    assert [(fault.message, fault.worker, fault.attempt, fault.job) for fault in met] == [
        ("fell over 1", "w1", 2, one.id),
        ("fell over 0", "w0", 1, one.id),
    ]
    assert [fault.job for fault in log.of_job(other.row_id, limit=1)] == [other.id]


def test_faults_are_counted_by_what_happened_not_by_how_many_it_met(farm: Jobs, log: FaultLog) -> None:
    submit(farm, pictures(8))
    for _ in range(2):
        claim(farm, worker="a")
        died(farm, worker="a")
    log.note_outage(fault=Fault.STORE_AWAY, worker="a", message="the bucket is gone")
    counts = {count.fault: (count.times, count.jobs) for count in log.counts(within_seconds=60)}
    # Eight in company, then one of them alone.
    assert counts == {Fault.WORKER_DIED: (2, 9), Fault.STORE_AWAY: (1, 0)}
    assert log.counts(within_seconds=60, worker="b") == []
    assert log.counts(within_seconds=60, model="other") == []
    assert [fault.fault for fault in log.latest(limit=1)] == [Fault.STORE_AWAY]


def test_a_fault_of_jobs_that_are_no_longer_held_is_nobodys(farm: Jobs, log: FaultLog, database: Database) -> None:
    submit(farm, pictures(1))
    stale = claim(farm)
    lapse_leases(database)
    farm.recover_lapsed()
    before = len(log.latest(limit=10))
    assert fail(farm, stale.jobs[0], "too late") is None
    assert len(log.latest(limit=10)) == before


def test_a_long_message_is_cut(farm: Jobs, log: FaultLog, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    fail(farm, claim(farm).jobs[0], "x" * 100_000)
    assert len(rows(database, render_id)[0].error) == 1000
    assert len(log.latest(limit=1)[0].message) == 1000


def test_a_message_with_a_character_that_no_database_keeps_is_kept_without_it(
    farm: Jobs, log: FaultLog, database: Database
) -> None:
    render_id = submit(farm, pictures(1))
    fail(farm, claim(farm).jobs[0], "header is \0bad")
    log.note_outage(fault=Fault.LOST_LEASE, worker=None, message="gone\0")
    assert [fault.message for fault in log.latest(limit=2)] == ["gone", "header is bad"]
    assert rows(database, render_id)[0].error == "header is bad"


# -- retried alone, retried elsewhere --------------------------------------------------------------------------


def test_whoever_died_together_is_rendered_alone_and_then_with_nobody_else(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(3))
    claim(farm, worker="a")
    died(farm, worker="a")
    alone = [claim(farm, worker="a") for _ in range(3)]
    assert [len(found.jobs) for found in alone] == [1, 1, 1]
    complete(farm, alone[0])
    complete(farm, alone[1])
    died(farm, worker="a")
    assert states(database, render_id) == [State.DONE, State.DONE, State.QUEUED]
    claim(farm, worker="a")
    died(farm, worker="a")
    [*_, poison] = rows(database, render_id)
    assert (poison.state, poison.attempt, poison.fault) == (State.FAILED, 3, Fault.WORKER_DIED)


def test_strangers_are_not_batched_with_a_suspect(farm: Jobs) -> None:
    submit(farm, pictures(1))
    claim(farm)
    died(farm, worker="w1")
    submit(farm, pictures(4))
    assert [len(claim(farm).jobs) for _ in range(2)] == [1, 4]


def test_a_lapse_in_company_burns_no_attempt_and_one_alone_does(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    for attempt in (0, 1, 2):
        claim(farm)
        lapse_leases(database)
        farm.recover_lapsed()
        assert rows(database, render_id)[0].attempt == attempt


def test_a_worker_leaves_what_it_failed_at_to_the_others_for_a_while(farm: Jobs, database: Database) -> None:
    present(database, "a", "b")
    submit(farm, pictures(1))
    fail(farm, claim(farm, worker="a").jobs[0], "cuDNN says no", fault=Fault.PIPELINE_ERROR)
    assert farm.claim(model="tiny", worker="a", limit=8) is None
    found = claim(farm, worker="b")
    farm.recover(found.jobs, Fault.BROKEN_DEVICE, "assert")
    assert farm.claim(model="tiny", worker="b", limit=8) is None
    later(database, 61)
    claim(farm, worker="b")


def test_without_others_it_tries_again_itself(farm: Jobs, database: Database) -> None:
    present(database, "a")
    present(database, "other", models=("other",))
    submit(farm, pictures(1))
    fail(farm, claim(farm, worker="a").jobs[0], "cuDNN says no", fault=Fault.PIPELINE_ERROR)
    claim(farm, worker="a")


@pytest.mark.parametrize("fault", [Fault.OUT_OF_MEMORY, Fault.BAD_WEIGHTS])
def test_what_only_another_machine_could_do_fails_at_once_where_there_is_none(
    farm: Jobs, database: Database, fault: Fault
) -> None:
    present(database, "a", "b")
    with database.write() as connection:
        connection.execute(update(workers).where(workers.c.name == "b").values(seen_at=database_now() - 100))
    submit(farm, pictures(2))
    assert fail(farm, claim(farm, worker="a", limit=1).jobs[0], "not here", fault=fault) is State.FAILED
    present(database, "b")
    assert fail(farm, claim(farm, worker="a").jobs[0], "not here", fault=fault) is State.QUEUED


# -- quarantine ------------------------------------------------------------------------------------------------


def break_device(farm: Jobs, worker: str, times: int = 3) -> None:
    for _ in range(times):
        farm.recover(claim(farm, worker=worker, limit=1).jobs, Fault.BROKEN_DEVICE, "device-side assert")


def test_a_device_that_broke_three_times_claims_nothing_until_it_is_released(
    farm: Jobs, log: FaultLog, database: Database
) -> None:
    present(database, "a")
    submit(farm, [*pictures(1), *pictures(1, model="other")])
    break_device(farm, "a", times=2)
    assert log.quarantines() == []
    break_device(farm, "a", times=1)
    [quarantine] = log.quarantines()
    assert (quarantine.worker, quarantine.model) == ("a", None)
    assert quarantine.seconds_left == pytest.approx(3600, abs=5)
    assert "device-side assert" in quarantine.reason
    for model in ("tiny", "other"):
        assert farm.claim(model=model, worker="a", limit=8) is None
        found = log.quarantine_of("a", model)
        assert found is not None
        assert found.model is None
    assert log.end_quarantines("a") == 1
    assert log.end_quarantines("a") == 0
    # What went wrong before the release is forgiven.
    break_device(farm, "a", times=2)
    assert log.quarantines() == []
    assert rows(database, claim(farm, worker="a").jobs[0].render_id)[0].attempt == 1


def test_a_quarantine_ends_by_itself(farm: Jobs, database: Database) -> None:
    brief = Jobs(database, RetryPolicy(quarantine_seconds=100))
    submit(farm, pictures(1))
    break_device(brief, "a")
    assert farm.claim(model="tiny", worker="a", limit=8) is None
    later(database, 101)
    claim(farm, worker="a")


def test_a_worker_that_fails_everything_of_a_model_is_left_out_of_that_model(
    farm: Jobs, log: FaultLog, database: Database
) -> None:
    present(database, "bad", "good", models=("tiny", "other"))
    render_id = submit(farm, pictures(4))
    submit(farm, pictures(1, model="other"))
    for _ in range(3):
        fail(farm, claim(farm, worker="bad", limit=1).jobs[0], "no", fault=Fault.PIPELINE_ERROR)
    assert [(q.worker, q.model) for q in log.quarantines()] == [("bad", "tiny")]
    assert farm.claim(model="tiny", worker="bad", limit=8) is None
    claim(farm, worker="bad", model="other")
    complete(farm, claim(farm, worker="good"))
    assert states(database, render_id) == [State.DONE] * 4


def test_a_success_in_between_clears_a_worker(farm: Jobs, log: FaultLog, database: Database) -> None:
    present(database, "a", "b")
    submit(farm, pictures(6))
    for number in range(6):
        found = claim(farm, worker="a", limit=1)
        if number == 2:
            farm.complete(rendered(found, worker="a"), published(*found.jobs))
        else:
            fail(farm, found.jobs[0], "no", fault=Fault.PIPELINE_ERROR)
            if number == 4:
                assert log.quarantines() == []


def test_a_quarantined_worker_is_no_other(farm: Jobs, database: Database) -> None:
    present(database, "a", "b")
    submit(farm, pictures(4))
    break_device(farm, "b")
    # With b out, nobody else could do better than a.
    assert fail(farm, claim(farm, worker="a").jobs[0], "not here", fault=Fault.BAD_WEIGHTS) is State.FAILED


# -- memory ----------------------------------------------------------------------------------------------------


def test_a_learned_limit_holds_for_its_model_size_and_hardware_for_a_day(database: Database) -> None:
    limits = MemoryLimits(database)
    load = Load(model="sd", entry="0123", width=512, height=768, device_name="H100 😀")
    assert limits.of(load) is None
    limits.learn(load, MemoryLimit(pictures=4))
    limits.learn(load, MemoryLimit(pictures=2))
    limits.learn(load, MemoryLimit(pictures=1, frugal=True))
    assert limits.of(load) == MemoryLimit(pictures=1, frugal=True)
    for other in ({"model": "xl"}, {"entry": "4567"}, {"width": 768}, {"height": 512}, {"device_name": "T4"}):
        assert limits.of(Load(**{**load.__dict__, **other})) is None
    later(database, 86401)
    assert limits.of(load) is None
    limits.learn(Load(**{**load.__dict__, "entry": "4567"}), MemoryLimit(pictures=2))
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(memory_limits)).scalar() == 1
