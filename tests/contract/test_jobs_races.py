"""Moves of jobs made at the same moment: in threads on both databases, and step by step where only locks decide."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TypeVar

import psycopg
import pytest
from sqlalchemy import Connection, event, select, text, update

import storage.database.connection
import storage.jobs.claim
from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.errors import DatabaseBusy, DatabaseProblem
from storage.jobs.jobs import Jobs
from storage.jobs.values import ClaimedJob, Submission, Webhook
from storage.renders.views import Views
from storage.rules.faults import RetryPolicy
from storage.rules.states import Priority, State
from tests.contract.renders import (
    assert_rows_agree,
    at_once,
    claim,
    complete,
    died,
    drain,
    fail,
    lapse_leases,
    pictures,
    published,
    rendered,
    states,
    submit,
)
from tests.servers import eventually

T = TypeVar("T")

# -- in threads ------------------------------------------------------------------------------------------------


def test_no_job_is_claimed_twice_by_eight_workers(farm: Jobs) -> None:
    submit(farm, pictures(200))
    shares: list[list[ClaimedJob]] = at_once(*[partial(drain, farm, limit=3)] * 8)
    claimed = [job.id for share in shares for job in share]
    assert len(claimed) == len(set(claimed)) == 200


def test_claims_made_at_once_take_whole_batches(farm: Jobs) -> None:
    submit(farm, pictures(32))
    found = at_once(*[partial(claim, farm, limit=8)] * 4)
    assert [len(one.jobs) for one in found] == [8] * 4


def test_claims_made_at_once_never_tear_a_batch_apart(farm: Jobs) -> None:
    for _ in range(10):
        submit(farm, pictures(8))
        found = at_once(*[partial(farm.claim, model="tiny", worker="w1", limit=8)] * 4)
        assert [len(one.jobs) for one in found if one is not None] == [8]


def test_a_job_completed_twice_at_once_counts_once(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    found = claim(farm)
    assert at_once(*[partial(complete, farm, found)] * 4) == [{}] * 4
    view = Views(database).render(render_id)
    assert (view.done, view.state) == (1, "done")


def test_the_last_jobs_of_a_render_ending_at_once_finish_it(farm: Jobs, database: Database) -> None:
    # Counting unfinished siblings instead, each would see the other's and neither would finish the render.
    render_id = submit(farm, pictures(6))
    found = [claim(farm, limit=1, worker=f"w{n}") for n in range(6)]
    at_once(*[partial(complete, farm, one) for one in found])
    view = Views(database).render(render_id)
    assert (view.done, view.state) == (6, "done")
    assert view.finished_at is not None


def test_a_cancel_among_completions_counts_every_job_once(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(12))
    found = [claim(farm, limit=2, worker=f"w{n}") for n in range(6)]

    def cancel() -> dict[int, State | None]:
        farm.cancel(render_id)
        return {}

    refused = at_once(cancel, *[partial(complete, farm, one) for one in found])
    view = Views(database).render(render_id)
    assert view.done + view.cancelled == 12
    assert view.cancelled == sum(len(jobs) for jobs in refused)
    assert {state for jobs in refused for state in jobs.values()} <= {State.CANCELLED}


def test_two_sweeps_at_once_take_back_each_job_once(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(20))
    # Leases of a microsecond: they have run out when the sweeps look.
    drain(Jobs(database, RetryPolicy(lease_seconds=1e-6)))
    assert sum(at_once(*[farm.recover_lapsed] * 4)) == 20
    assert states(database, render_id) == [State.QUEUED] * 20


def test_the_last_attempts_of_jobs_taken_back_twice_at_once_are_counted_once(farm: Jobs, database: Database) -> None:
    strict = Jobs(database, RetryPolicy(max_attempts=1))
    render_id = submit(farm, pictures(20))
    drain(strict)
    assert sum(at_once(*[partial(died, strict, worker="w1")] * 4)) == 20
    assert Views(database).render(render_id).failed == 20


def test_two_retries_at_once_queue_each_job_once(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(10))
    for job in drain(farm):
        fail(farm, job, "black picture")
    assert sum(at_once(*[partial(farm.retry, render_id, quanta={"tiny": 8})] * 3)) == 10
    assert states(database, render_id) == [State.QUEUED] * 10


# -- step by step ----------------------------------------------------------------------------------------------
# PostgreSQL only: SQLite's writers never meet.


@pytest.fixture
def postgres_farm(postgres: str) -> Iterator[Jobs]:
    database = Database(postgres)
    yield Jobs(database)
    assert_rows_agree(database)
    database.close()


@contextmanager
def render_locked(database: Database, render_id: str) -> Iterator[None]:
    """Every move that counts stops just before it counts, with all its other work done."""
    with database.write() as connection:
        connection.execute(select(renders).where(renders.c.id == render_id).with_for_update())
        yield


def blocked(database: Database) -> int:
    """How many transactions wait for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.read() as connection:
        return int(connection.execute(waiting).scalar_one())


def start(threads: ThreadPoolExecutor, database: Database, move: Callable[[], T]) -> Future[T]:
    """Make a move in a thread, up to the point where it waits for a lock."""
    before = blocked(database)
    future = threads.submit(move)
    eventually(lambda: blocked(database) > before, "the move waits for a lock")
    return future


def test_a_cancel_that_comes_while_a_job_is_being_completed_finds_it_done(postgres_farm: Jobs) -> None:
    database = postgres_farm.database
    render_id = submit(postgres_farm, pictures(2))
    found = claim(postgres_farm, limit=1)
    with ThreadPoolExecutor() as threads:
        with render_locked(database, render_id):
            completing = start(threads, database, lambda: complete(postgres_farm, found))
            cancelling = start(threads, database, lambda: postgres_farm.cancel(render_id))
        assert completing.result() == {}
        assert cancelling.result() == 1
    assert states(database, render_id) == [State.DONE, State.CANCELLED]


def test_a_completion_that_comes_while_its_render_is_being_cancelled_is_refused(postgres_farm: Jobs) -> None:
    database = postgres_farm.database
    render_id = submit(postgres_farm, pictures(2))
    found = claim(postgres_farm, limit=1)
    with ThreadPoolExecutor() as threads:
        with render_locked(database, render_id):
            cancelling = start(threads, database, lambda: postgres_farm.cancel(render_id))
            completing = start(threads, database, lambda: complete(postgres_farm, found))
        assert cancelling.result() == 2
        assert completing.result() == {found.jobs[0].id: State.CANCELLED}
    assert states(database, render_id) == [State.CANCELLED] * 2


def test_two_parts_of_a_batch_completed_at_once_are_both_recorded(postgres_farm: Jobs) -> None:
    database = postgres_farm.database
    render_id = submit(postgres_farm, pictures(2))
    found = claim(postgres_farm)
    with ThreadPoolExecutor() as threads:
        with render_locked(database, render_id):
            parts = [
                start(threads, database, partial(postgres_farm.complete, rendered(found), published(job)))
                for job in found.jobs
            ]
        assert [part.result() for part in parts] == [{}, {}]
    assert Views(database).render(render_id).done == 2


def test_a_claim_passes_over_jobs_that_a_cancel_is_taking(postgres_farm: Jobs) -> None:
    database = postgres_farm.database
    cancelled, kept = submit(postgres_farm, pictures(2)), submit(postgres_farm, pictures(2))
    with ThreadPoolExecutor() as threads:
        with render_locked(database, cancelled):
            cancelling = start(threads, database, lambda: postgres_farm.cancel(cancelled))
            assert [job.render_id for job in claim(postgres_farm).jobs] == [kept] * 2
        assert cancelling.result() == 2


#: What keeps those apart who take a part of what is left of a kind.
GATE = "hashtextextended('claim:tiny', 0)"


def test_a_claim_waits_for_nobody_who_chooses_beside_it_while_there_is_enough(postgres_farm: Jobs) -> None:
    submit(postgres_farm, pictures(24))
    with postgres_farm.database.write() as choosing:
        choosing.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({GATE})")
        choosing.exec_driver_sql("SELECT id FROM jobs WHERE index IN (0, 2, 4, 6) FOR UPDATE")
        beside = claim(postgres_farm)
    assert [job.index for job in beside.jobs] == [1, 3, 5, 7, 8, 9, 10, 11]


def test_a_claim_that_finds_a_part_of_a_batch_lets_go_of_it_until_nobody_chooses(postgres_farm: Jobs) -> None:
    database = postgres_farm.database
    submit(postgres_farm, pictures(8))
    with ThreadPoolExecutor() as threads:
        with database.write() as choosing:
            choosing.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({GATE})")
            choosing.exec_driver_sql("SELECT id FROM jobs WHERE index IN (0, 2, 4) FOR UPDATE")
            claiming = start(threads, database, lambda: claim(postgres_farm))
            free = choosing.exec_driver_sql("SELECT id FROM jobs FOR UPDATE SKIP LOCKED").all()
            assert len(free) == 8, "whoever chose beside it may have all"
        assert len(claiming.result().jobs) == 8


def test_a_claim_does_not_wait_for_what_somebody_keeps_who_does_not_choose(postgres_farm: Jobs) -> None:
    submit(postgres_farm, pictures(8))
    with postgres_farm.database.write() as cancelling:
        cancelling.exec_driver_sql("SELECT id FROM jobs WHERE index IN (0, 2, 4) FOR UPDATE")
        assert [job.index for job in claim(postgres_farm).jobs] == [1, 3, 5, 6, 7]


def test_a_claimer_that_freezes_keeps_its_model_from_nobody(
    postgres_farm: Jobs, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped, or its machine went to sleep, with its claim not committed: one of several statements."""
    webhook = Webhook(url="https://example.com", events=("job.done",))
    told = Submission(owner="ann", priority=Priority.NORMAL, watched=True, webhook=webhook)
    postgres_farm.submit(pictures(12), told, quanta={"tiny": 8})
    patience: list[str] = []
    frozen, wakes = threading.Event(), threading.Event()

    def freeze(connection: Connection) -> None:
        patience.append(str(connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()))
        frozen.set()
        wakes.wait()

    with closing(Database(postgres)) as elsewhere, ThreadPoolExecutor() as threads:
        event.listen(elsewhere.engine, "commit", freeze)
        monkeypatch.setattr(storage.jobs.claim, "_FROZEN", "100ms", raising=False)
        claiming = threads.submit(claim, Jobs(elsewhere))
        frozen.wait()
        try:
            behind = claim(postgres_farm, worker="w2")
            assert [job.index for job in behind.jobs] == [8, 9, 10, 11], (
                "another worker claims what comes next, at once"
            )
            back = eventually(partial(postgres_farm.claim, model="tiny", worker="w2", limit=8), "the others come back")
        finally:
            wakes.set()
        assert back is not None
        assert [job.index for job in back.jobs] == [*range(8)]
        with pytest.raises(DatabaseProblem):
            claiming.result()
    assert patience == ["100ms"]


def test_a_claimer_that_freezes_before_it_hears_what_it_claimed_holds_up_nobody(
    postgres_farm: Jobs, postgres: str
) -> None:
    database = postgres_farm.database
    render_id = submit(postgres_farm, pictures(12))
    with closing(psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True)) as elsewhere:
        # It says what it wants, and never listens.
        elsewhere.pgconn.send_query(b"SELECT * FROM claim_batch('tiny', 'w1', 8, 30)")
        eventually(lambda: states(database, render_id).count(State.RUNNING) == 8, "the claim is made")
        behind = claim(postgres_farm, worker="w2")
        assert [job.index for job in behind.jobs] == [8, 9, 10, 11]
        complete(postgres_farm, behind)
        lapse_leases(database)
        assert postgres_farm.recover_lapsed() == 8
        assert [job.index for job in drain(postgres_farm)] == [*range(8)]


@pytest.mark.parametrize("fault", ["lock timeout", "cancel"])
def test_a_claim_that_fails_while_it_chooses_lets_the_others_choose(
    postgres_farm: Jobs, postgres: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its turn belongs to its session, which lives on."""
    monkeypatch.setattr(storage.database.connection, "_TRIES", 1)
    submit(postgres_farm, pictures(12))
    if fault == "lock timeout":
        with postgres_farm.database.write() as connection:
            connection.exec_driver_sql("ALTER FUNCTION claim_batch SET lock_timeout = '100ms'")
    with closing(Database(postgres, connections=1)) as failing, ThreadPoolExecutor() as threads:
        with postgres_farm.database.write() as connection:
            connection.exec_driver_sql("LOCK TABLE jobs IN EXCLUSIVE MODE")
            claiming = threads.submit(claim, Jobs(failing))
            if fault == "cancel":
                eventually(lambda: blocked(postgres_farm.database), "the claim waits")
                connection.exec_driver_sql(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            with pytest.raises(DatabaseProblem):
                claiming.result()
        assert len(claim(postgres_farm, worker="w2").jobs) == 8
        assert len(claim(Jobs(failing)).jobs) == 4


def test_leases_are_judged_while_somebody_freezes_who_renews_another(postgres_farm: Jobs) -> None:
    database = postgres_farm.database
    render_id = submit(postgres_farm, pictures(2))
    frozen, lapsed = claim(postgres_farm, limit=1, worker="w1"), claim(postgres_farm, limit=1, worker="w2")
    lapse_leases(database)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == frozen.jobs[0].id).values(lease_until=1))
        assert postgres_farm.recover_lapsed() == 1
    assert states(database, render_id) == [State.RUNNING, State.QUEUED]
    assert postgres_farm.recover_lapsed() == 1
    assert lapsed.jobs[0].index == 1


def test_what_a_stopped_writer_does_to_sqlite_is_said_with_its_remedy(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.database.connection, "_SQLITE_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(storage.database.connection, "_TRIES", 1)
    said = r"database is locked: another process .* let it go on or end it"
    with closing(Database(sqlite)) as stopped, closing(Database(sqlite)) as other:
        claiming = partial(Jobs(other).claim, model="tiny", worker="w1", limit=1)
        with stopped.write(), pytest.raises(DatabaseBusy, match=said):
            claiming()
        assert claiming() is None
