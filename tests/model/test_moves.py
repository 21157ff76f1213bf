"""Any order of submits, claims, faults, lapses and cancels, against a farm in plain Python.

`pytest tests/model --examples 2000` for as many random histories; a few dozen in every test run.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import select, update

from storage.database.connection import Database, database_now
from storage.database.tables import events, renders
from storage.database.tables import jobs as rows
from storage.events.log import Event, EventKind, EventLog
from storage.fleet.fault_log import FaultLog
from storage.fleet.workers import NewWorker, Workers
from storage.jobs.jobs import Jobs
from storage.jobs.values import Claim, ClaimedJob
from storage.rules.faults import Fault, RetryPolicy
from storage.rules.states import FINAL, Priority, State
from tests.contract.renders import assert_rows_agree, pictures, published, rendered, submit
from tests.model.plain_farm import MAX_ATTEMPTS, Held, PlainFarm

WORKERS = ("a", "b")
STEPS = 60

_AFTER = {
    EventKind.JOB_STARTED: State.RUNNING,
    EventKind.JOB_DONE: State.DONE,
    EventKind.JOB_FAILED: State.FAILED,
    EventKind.JOB_CANCELLED: State.CANCELLED,
}

workers = st.sampled_from(WORKERS)
picks = st.integers(0, 255)


class Moves(RuleBasedStateMachine):
    """Every rule does the same to the database and to the plain farm, and compares what both answer."""

    make_database: Callable[[], Database]

    submitted: Bundle[str] = Bundle("submitted")
    claims: Bundle[tuple[Claim, str, list[Held]]] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.database = type(self).make_database()
        self.jobs = Jobs(self.database, RetryPolicy(max_attempts=MAX_ATTEMPTS))
        self.log = FaultLog(self.database)
        self.plain = PlainFarm()
        for name in WORKERS:
            Workers(self.database).announce(
                NewWorker(name=name, host="h", device="cpu:0", device_name="cpu", pid=1, models=["tiny"])
            )

    def teardown(self) -> None:
        self.database.close()

    # -- a person's moves --------------------------------------------------------------------------------------

    @rule(
        target=submitted,
        n=st.integers(1, 6),
        steps=st.sampled_from([8, 9]),
        priority=st.sampled_from(Priority),
        watched=st.booleans(),
    )
    def submit(self, n: int, steps: int, priority: Priority, watched: bool) -> str:
        specs = pictures(n, num_inference_steps=steps)
        render_id = submit(self.jobs, specs, priority=priority, watched=watched)
        for row in self._rows(rows.c.render_id == render_id):
            self.plain.add(row.id, render_id, row.batch_key, priority)
        return render_id

    @rule(render_id=submitted)
    def cancel(self, render_id: str) -> None:
        assert self.jobs.cancel(render_id) == self.plain.cancel(render_id)

    @rule(render_id=submitted, pick=picks)
    def cancel_one(self, render_id: str, pick: int) -> None:
        theirs = list(self.plain.of_render(render_id))
        index = pick % len(theirs)
        assert self.jobs.cancel_job(render_id, index) == self.plain.cancel_one(theirs[index])

    @rule(render_id=submitted)
    def hold(self, render_id: str) -> None:
        assert self.jobs.hold(render_id) == self.plain.hold(render_id)

    @rule(render_id=submitted)
    def let_go(self, render_id: str) -> None:
        assert self.jobs.release(render_id) == self.plain.release(render_id)

    @rule(render_id=submitted, priority=st.sampled_from(Priority))
    def reprioritise(self, render_id: str, priority: Priority) -> None:
        changed = self.jobs.reprioritise(render_id, priority, quanta={"tiny": 8})
        assert changed == self.plain.reprioritise(render_id, priority)

    @rule(render_id=submitted)
    def retry(self, render_id: str) -> None:
        assert self.jobs.retry(render_id, quanta={"tiny": 8}) == self.plain.retry(render_id)

    # -- a worker's moves --------------------------------------------------------------------------------------

    @rule(target=claims, worker=workers, limit=st.integers(1, 8))
    def claim(self, worker: str, limit: int) -> Any:
        kept_out = self._kept_out(worker)
        found = self.jobs.claim(model="tiny", worker=worker, limit=limit)
        if found is None:
            assert kept_out or not self.plain.open_to(worker), "nothing was claimed though something waits"
            return multiple()
        assert not kept_out, "a worker in quarantine was given jobs"
        held = self.plain.claim([job.id for job in found.jobs], worker, limit)
        assert [(job.fence, job.attempt) for job in found.jobs] == [(one.fence, one.job.attempt) for one in held]
        left = self.plain.open_to(worker)
        assert found.next_priority == (min(job.priority for job in left) if left else None)
        return found, worker, held

    @rule(claim=claims)
    def renew(self, claim: tuple[Claim, str, list[Held]]) -> None:
        found, _, held = claim
        ours = [one for one in held if one.ours]
        assert self.jobs.still_held(found.jobs) == {one.job.id for one in ours}
        assert self.jobs.renew(found.jobs) == {one.job.id for one in ours}
        for one in ours:
            one.job.lapsed = False

    @rule(claim=claims, pick=picks)
    def complete(self, claim: tuple[Claim, str, list[Held]], pick: int) -> None:
        found, worker, held = claim
        some, same = _picked(found, held, pick)
        assert self.jobs.complete(rendered(found, worker=worker), published(*some)) == self.plain.complete(same)

    @rule(claim=claims, pick=picks, fault=st.sampled_from(Fault))
    def set_back(self, claim: tuple[Claim, str, list[Held]], pick: int, fault: Fault) -> None:
        found, worker, held = claim
        some, same = _picked(found, held, pick)
        others = self._others(worker)
        ours = [one.job for one in same if one.ours]
        assert self.jobs.recover(some, fault, "went wrong") == self.plain.set_back(ours, fault, others=others)

    @rule(worker=workers)
    def stop(self, worker: str) -> None:
        assert self.jobs.requeue_from_worker(worker=worker) == self.plain.requeue_from_worker(worker)

    @rule(worker=workers, fault=st.sampled_from([Fault.WORKER_DIED, Fault.TIMEOUT]))
    def die(self, worker: str, fault: Fault) -> None:
        others = self._others(worker)
        held = list(self.plain.held_by(worker))
        taken = self.jobs.recover_from_worker(worker=worker, fault=fault, message="died")
        assert taken == len(self.plain.set_back(held, fault, others=others))

    # -- time --------------------------------------------------------------------------------------------------

    @rule(worker=workers)
    def lapse(self, worker: str) -> None:
        """The worker has been silent for longer than its leases."""
        with self.database.write() as connection:
            lapsed = (rows.c.worker == worker) & (rows.c.state == State.RUNNING)
            connection.execute(update(rows).where(lapsed).values(lease_until=database_now() - 1))
        for job in self.plain.held_by(worker):
            job.lapsed = True

    @rule()
    def sweep(self) -> None:
        lapsed = [job for job in self.plain.jobs.values() if job.lapsed]
        others = {worker: self._others(worker) for worker in WORKERS}
        assert self.jobs.recover_lapsed() == len(lapsed)
        for job in lapsed:
            job.hit_by(Fault.LOST_LEASE, others=others[str(job.worker)])
        self.plain.hold_again()

    @rule()
    def a_minute_passes(self) -> None:
        with self.database.write() as connection:
            connection.execute(update(rows).values(elsewhere_until=rows.c.elsewhere_until - 61))
        for job in self.plain.jobs.values():
            job.elsewhere = False

    @rule(worker=workers)
    def release(self, worker: str) -> None:
        self.log.end_quarantines(worker)
        assert not self._kept_out(worker)

    # -- what is always true -----------------------------------------------------------------------------------

    @invariant()
    def rows_and_plain_jobs_are_the_same(self) -> None:
        found = {row.id: (row.state, row.attempt, row.fence, bool(row.suspect), row.fault) for row in self._rows(True)}
        assert found == {
            job.id: (job.state, job.attempt, job.fence, job.suspect, job.fault) for job in self.plain.jobs.values()
        }

    @invariant()
    def counters_agree_with_rows(self) -> None:
        assert_rows_agree(self.database)

    @invariant()
    def who_was_told_every_event_knows_every_state(self) -> None:
        with self.database.read() as connection:
            watched = set(connection.execute(select(renders.c.id).where(renders.c.watched)).scalars())
            told = set(connection.execute(select(events.c.render_id).distinct()).scalars())
        assert told <= watched
        for render_id in watched:
            rows_of = self._rows(rows.c.render_id == render_id)
            assert replayed(EventLog(self.database).after(render_id, 0), len(rows_of)) == [row.state for row in rows_of]

    # -- looking -----------------------------------------------------------------------------------------------

    def _rows(self, condition: Any) -> list[Any]:
        statement = select(rows).order_by(rows.c.id)
        with self.database.read() as connection:
            return [*connection.execute(statement if condition is True else statement.where(condition))]

    def _kept_out(self, worker: str) -> bool:
        return self.log.quarantine_of(worker, "tiny") is not None

    def _others(self, worker: str) -> bool:
        return any(not self._kept_out(other) for other in WORKERS if other != worker)


def replayed(told: list[Event], pictures: int) -> list[State]:
    """The states of a render's pictures, by its events alone; these must be numbered without a gap."""
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    states, waiting = [State.QUEUED] * pictures, State.QUEUED
    for event in told:
        match event.kind:
            case EventKind.RENDER_CANCELLED:
                states = [state if state in FINAL else State.CANCELLED for state in states]
            case EventKind.RENDER_HELD | EventKind.RENDER_RELEASED:
                waiting = State.HELD if event.kind is EventKind.RENDER_HELD else State.QUEUED
                states = [waiting if state in (State.QUEUED, State.HELD) else state for state in states]
            case EventKind.RENDER_RETRIED:
                states = [waiting if state is State.FAILED else state for state in states]
            case EventKind.JOB_QUEUED:
                states[event.index or 0] = waiting
            case EventKind.RENDER_FINISHED:
                assert all(state in FINAL for state in states)
            case _:
                assert event.index is not None
                states[event.index] = _AFTER[event.kind]
    return states


def _picked(found: Claim, held: list[Held], pick: int) -> tuple[list[ClaimedJob], list[Held]]:
    """Some of the jobs of a claim, at least one: the bits of a number say which."""
    chosen = [index for index in range(len(held)) if pick >> index & 1] or [0]
    return [found.jobs[index] for index in chosen], [held[index] for index in chosen]


def test_no_history_of_moves_leads_anywhere_else_than_in_the_plain_farm(
    sqlite_template: Path, request: pytest.FixtureRequest
) -> None:
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:

        def make_database() -> Database:
            file = Path(folder) / "farm.db"
            for old in Path(folder).iterdir():
                old.unlink()
            shutil.copy(sqlite_template, file)
            return Database(f"sqlite:///{file}")

        machine = type("MovesHere", (Moves,), {"make_database": staticmethod(make_database)})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=request.config.getoption("--examples"),
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )


def _memory() -> str | None:
    """Without a disk below it a history takes a tenth of the time."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
