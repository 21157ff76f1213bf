"""Every statement that changes a job: one guarded UPDATE per legal move (`storage.rules.states.TRANSITIONS`).

The protocol, in one paragraph. A claim makes queued rows running, raises their `fence` and gives them a lease by the
database's clock. Every later write of the worker names the fence it was given, so a worker that lost its lease (it
was stopped, swapped out, cut off) changes nothing when it wakes. Jobs of expired leases are swept back to the queue; a
cancel raises the fence. A render's counters move in the same transaction as its jobs.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    or_,
    select,
    update,
)

from storage.access.quotas import keep_retry_to_limits
from storage.database.connection import Database, database_now, transaction
from storage.database.tables import batches, jobs, renders
from storage.database.upsert import insert_on_conflict
from storage.errors import NotFound, ObjectStoreProblem
from storage.events.log import EventKind, NewEvent, record_events
from storage.fleet.workers import name_is_of
from storage.jobs import holding
from storage.jobs.claim import claim_of, take, take_at_once
from storage.jobs.completion import batch_row, complete, complete_at_once, refusals, stored_bytes, told_of
from storage.jobs.fair_share import RoundDealer, queued
from storage.jobs.looks import any_lapsed, best_waiting, count_waiting
from storage.jobs.orphans import being_removed, note_orphans
from storage.jobs.recovery import recover
from storage.jobs.submission import accept_stream, accepted_before
from storage.jobs.transitions import count, fenced, lock_renders, of_watched, transition, unleased
from storage.jobs.values import Claim, ClaimedJob, NewJob, Published, RenderedBatch, Submission
from storage.rules.faults import Fault, RetryPolicy
from storage.rules.states import Priority, State, Transition
from storage.spec.picture import Spec

#: A retry waits for pictures that are being deleted; a store that answers does so within milliseconds.
_REMOVAL_SECONDS = 5.0


class Jobs:
    """The moves of jobs. Every method is one transaction; all but `submit` are idempotent."""

    def __init__(self, database: Database, rules: RetryPolicy | None = None) -> None:
        self.database = database
        self._rules = rules or RetryPolicy()

    # -- accepting ---------------------------------------------------------------------------------------------

    def submit(self, wanted: Iterable[NewJob | Spec], submission: Submission, *, quanta: Mapping[str, int]) -> str:
        """Accept a render whole or not at all; its id. `wanted` is streamed: memory stays flat.

        Args:
            quanta: model alias → how many jobs an owner is dealt per round (the model's batch limit).

        Raises:
            BadSpecification: there is nothing to render.
            IdempotencyConflict: a different request of this owner was accepted under the same idempotency key.
            Whatever `wanted` raises while it is read; then nothing is left behind.
        """
        new_jobs = (one if isinstance(one, NewJob) else NewJob(spec=one) for one in wanted)
        return accept_stream(self.database, new_jobs, submission, quanta, within=lambda _, accept: accept())

    def accepted_before(self, submission: Submission) -> str | None:
        """Return the render that was accepted under this submission's idempotency key; None if there is none.

        Raises IdempotencyConflict if that was a different request.
        """
        if submission.once is None:
            return None
        with self.database.ask() as connection:
            return accepted_before(connection, submission.owner, submission.once)

    # -- a worker's moves --------------------------------------------------------------------------------------

    def claim(self, *, model: str, worker: str, limit: int) -> Claim | None:
        """Claim up to `limit` jobs that one pipeline call can render: the queue's head, then the next ones like it.

        A suspect is taken alone. None if nothing of this model waits that this worker may take: it may be in
        quarantine, or have failed at what waits.
        """
        if self.database.has_functions:
            found = take_at_once(self.database, self._rules, model=model, worker=worker, limit=limit)
            if not isinstance(found, EllipsisType):
                return found
        rows = self._claim(model=model, worker=worker, limit=limit)
        return None if rows is None else claim_of(self.database, rows)

    @transaction
    def _claim(self, connection: Connection, *, model: str, worker: str, limit: int) -> Sequence[Sequence[Any]] | None:
        return take(connection, self._rules, model=model, worker=worker, limit=limit)

    @transaction
    def renew(self, connection: Connection, claimed: Iterable[ClaimedJob]) -> set[int]:
        """Extend the leases that are still ours; the ids of those. The others were lost or cancelled."""
        renewed = connection.execute(
            update(jobs)
            .where(jobs.c.state == State.RUNNING, fenced(claimed))
            .values(lease_until=database_now() + self._rules.lease_seconds)
            .returning(jobs.c.id)
        )
        return set(renewed.scalars())

    def still_held(self, claimed: Iterable[ClaimedJob]) -> set[int]:
        """Return the ids that are still ours: `renew` without writing, cheap enough for every second."""
        with self.database.ask() as connection:
            statement = select(jobs.c.id).where(jobs.c.state == State.RUNNING, fenced(claimed))
            return set(connection.execute(statement).scalars())

    def complete(self, batch: RenderedBatch, published: Sequence[Published]) -> dict[int, State | None]:
        """Record pictures as done. Idempotent, also after a commit whose reply was lost.

        Returns:
            The jobs that are *no longer* ours, with their present state (None: deleted with their render); empty if all
            went well.
        """
        if self.database.has_functions and complete_at_once(self.database, batch, published):
            return {}
        return self._complete(batch, published)

    @transaction
    def _complete(
        self, connection: Connection, batch: RenderedBatch, published: Sequence[Published]
    ) -> dict[int, State | None]:
        done = complete(connection, batch, published)
        counted = Counter(picture.job.render_id for picture in done.values())
        refused = refusals(connection, [picture.job for picture in published if picture.job.id not in done])
        if counted:
            _record(connection, batch)
        if nobodys := [job_id for job_id, state in refused.items() if state in (State.CANCELLED, State.FAILED)]:
            note_orphans(connection, jobs.c.id.in_(nobodys), after_seconds=0)
        made = [picture.job for picture in done.values()]
        if any(job.watched for job in made):
            lock_renders(connection, counted)
        record_events(
            connection,
            of_watched(EventKind.JOB_DONE, made, lambda job: told_of(done[job.id])),
        )
        count(connection, renders.c.done, counted, stored=stored_bytes(done.values()))
        return refused

    @transaction
    def recover(
        self, connection: Connection, claimed: Sequence[ClaimedJob], fault: Fault, message: str
    ) -> dict[int, State]:
        """Record a fault of jobs in hand: they are retried, or fail for good (`storage.rules.faults`).

        Returns their present states, without those that were no longer ours.
        """
        return recover(connection, self._rules, fenced(claimed), fault, message)

    # -- taking jobs from workers ------------------------------------------------------------------------------

    @transaction
    def requeue_from_worker(self, connection: Connection, *, worker: str, run: str = "") -> int:
        """Requeue everything that a stopping worker holds; how many jobs. No attempt is counted.

        Nothing if the name belongs to a worker of another run of `farm-worker`.
        """
        return self._give_back(connection, (jobs.c.worker == worker) & name_is_of(run, worker))

    @transaction
    def give_back(self, connection: Connection, claimed: Sequence[ClaimedJob]) -> int:
        """Requeue jobs that were claimed ahead and not begun; how many. No attempt is counted."""
        return self._give_back(connection, fenced(claimed))

    def _give_back(self, connection: Connection, which: ColumnElement[bool]) -> int:
        theirs = holding.coming_back(connection, which)
        returned = connection.execute(
            transition(Transition.REQUEUE)
            .where(theirs)
            .values(attempt=jobs.c.attempt - 1, elsewhere_until=None, **unleased())
            .returning(jobs.c.render_id, jobs.c.index, jobs.c.watched)
        ).all()
        record_events(
            connection,
            [
                NewEvent(render_id=row.render_id, kind=EventKind.JOB_QUEUED, index=row._mapping["index"])
                for row in returned
                if row.watched
            ],
        )
        return len(returned)

    @transaction
    def recover_from_worker(
        self, connection: Connection, *, worker: str, fault: Fault, message: str, run: str = ""
    ) -> int:
        """Recover all jobs of a worker that can no longer do so itself; how many. As above, of this run's alone."""
        theirs = (jobs.c.worker == worker) & name_is_of(run, worker)
        return len(recover(connection, self._rules, theirs, fault, message))

    def recover_lapsed(self) -> int:
        """Recover jobs whose lease has expired; how many."""
        with self.database.ask() as connection:
            # Mostly there are none; that is no reason to ask SQLite for its one writer.
            if not any_lapsed(connection):
                return 0
        return self._recover_lapsed()

    @transaction
    def _recover_lapsed(self, connection: Connection) -> int:
        lapsed = jobs.c.lease_until < database_now()
        message = "the worker stopped renewing its lease"
        # Leases are judged while somebody holds a render of a million, too; those of that one a little later.
        return len(recover(connection, self._rules, lapsed, Fault.LOST_LEASE, message, wait=False))

    # -- an operator's moves --------------------------------------------------------------------------------------

    @transaction
    def cancel(self, connection: Connection, render_id: str) -> int:
        """Cancel what is unfinished; how many jobs. Raising the fence locks out the workers that run them."""
        return self.cancel_within(connection, render_id)

    def cancel_within(self, connection: Connection, render_id: str) -> int:
        """Cancel, as `cancel` does, within another transaction."""
        told = NewEvent(render_id=render_id, kind=EventKind.RENDER_CANCELLED)
        return self._cancel(connection, jobs.c.render_id == render_id, told)

    @transaction
    def cancel_job(self, connection: Connection, render_id: str, index: int) -> bool:
        """Cancel one job; whether it was unfinished. Others of its batch go on."""
        one = (jobs.c.render_id == render_id) & (jobs.c.index == index)
        return (
            self._cancel(connection, one, NewEvent(render_id=render_id, kind=EventKind.JOB_CANCELLED, index=index)) > 0
        )

    def _cancel(self, connection: Connection, which: ColumnElement[bool], told: NewEvent) -> int:
        cancelled = connection.execute(
            transition(Transition.CANCEL).where(which).values(fence=jobs.c.fence + 1, **unleased(finished=True))
        ).rowcount
        # Those that were ever claimed; the cancel has raised every fence by one.
        claimed = which & (jobs.c.state == State.CANCELLED) & (jobs.c.fence > 1)
        note_orphans(connection, claimed, after_seconds=self._rules.lease_seconds)
        if cancelled:
            record_events(connection, [told])
        count(connection, renders.c.cancelled, {told.render_id: cancelled})
        return cancelled

    def retry(self, render_id: str, *, quanta: Mapping[str, int]) -> int:
        """Queue the failed jobs of a render again, with fresh attempts and rounds; how many.

        Raises ObjectStoreProblem while pictures of earlier attempts are being deleted, and the store does not answer;
        QuotaExceeded or NotPermitted where the limits of the render's key have no room for them.
        """
        deadline = time.monotonic() + _REMOVAL_SECONDS
        while (retried := self._retry(render_id, quanta=quanta)) is None:
            if time.monotonic() > deadline:
                raise ObjectStoreProblem(
                    f"render {render_id}: pictures of failed attempts are being deleted, and the object store does not "
                    "answer; retry when it does"
                )
            time.sleep(0.05)
        return retried

    @transaction
    def _retry(self, connection: Connection, render_id: str, *, quanta: Mapping[str, int]) -> int | None:
        """Retry; None if it has to wait."""
        holding.hold_alone(connection, render_id)
        failed = connection.execute(
            select(jobs.c.id, jobs.c.model, jobs.c.owner, jobs.c.priority)
            .where(jobs.c.render_id == render_id, jobs.c.state == State.FAILED)
            .order_by(jobs.c.id)
            .with_for_update()
        ).all()
        if not failed:
            return 0
        if connection.execute(being_removed(render_id).limit(1)).first() is not None:
            return None
        keep_retry_to_limits(connection, render_id, len(failed))
        dealer = RoundDealer(connection, owner=failed[0].owner, priority=Priority(failed[0].priority), quanta=quanta)
        retried = 0
        for round_, ids in _by_round(failed, dealer):
            retried += connection.execute(
                transition(Transition.RETRY)
                .where(jobs.c.id.in_(ids))
                .values(
                    round=round_,
                    attempt=0,
                    error=None,
                    fault=None,
                    suspect=False,
                    elsewhere_until=None,
                    finished_at=None,
                )
            ).rowcount
        kept = connection.execute(
            update(renders)
            .where(renders.c.id == render_id, ~renders.c.purging)
            .values(failed=renders.c.failed - retried, finished_at=None)
        ).rowcount
        if not kept:
            raise NotFound(f"render {render_id} is being deleted")
        record_events(
            connection, [NewEvent(render_id=render_id, kind=EventKind.RENDER_RETRIED, data={"jobs": retried})]
        )
        return retried

    @transaction
    def reprioritise(
        self, connection: Connection, render_id: str, priority: Priority, *, quanta: Mapping[str, int]
    ) -> int:
        """Move a render's waiting and held jobs to another priority, behind its owner's jobs there; how many."""
        holding.hold_alone(connection, render_id)
        waiting = connection.execute(
            select(jobs.c.id, jobs.c.model, jobs.c.owner)
            .where(
                or_(queued(), jobs.c.state == State.HELD), jobs.c.render_id == render_id, jobs.c.priority != priority
            )
            .order_by(jobs.c.id)
            .with_for_update()
        ).all()
        if not waiting:
            return 0
        dealer = RoundDealer(connection, owner=waiting[0].owner, priority=priority, quanta=quanta)
        for round_, ids in _by_round(waiting, dealer):
            connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(priority=priority, round=round_))
        connection.execute(update(renders).where(renders.c.id == render_id).values(priority=priority))
        return len(waiting)

    @transaction
    def hold(self, connection: Connection, render_id: str) -> int:
        """Hold a render's waiting jobs, taking them out of the queue; how many. Running ones go on. Idempotent."""
        return holding.hold(connection, render_id)

    @transaction
    def release(self, connection: Connection, render_id: str) -> int:
        """Release a held render into the queue, from the round now being served; how many jobs. Idempotent."""
        return holding.release(connection, render_id)

    def put_right(self) -> int:
        """Hold what waits of held renders, and release what is held of others; how many jobs."""
        with self.database.read() as connection:
            found = holding.disagreeing(connection)
        return sum(self._put_right(render_id) for render_id in found)

    @transaction
    def _put_right(self, connection: Connection, render_id: str) -> int:
        return holding.put_right(connection, render_id)

    # -- what waits --------------------------------------------------------------------------------------------

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:
        """Count the jobs that wait, up to `at_most`: the cost does not grow with the backlog."""
        return self.waiting_each(model, (priority,), at_most=at_most)[priority]

    def waiting_each(self, model: str, priorities: Iterable[Priority], *, at_most: int) -> dict[Priority, int]:
        """Count the jobs that wait with each of these priorities, each up to `at_most`; one statement."""
        with self.database.ask() as connection:
            return count_waiting(connection, model, tuple(priorities), at_most=at_most)

    def best_waiting(self, models: Iterable[str]) -> dict[str, Priority]:
        """Return the best priority that waits for each of these models, without those that have no waiting jobs."""
        with self.database.ask() as connection:
            best = best_waiting(connection)
        return {model: best[model] for model in models if model in best}


def _record(connection: Connection, batch: RenderedBatch) -> None:
    """Record what was rendered together, unless another part of the batch was completed first."""
    connection.execute(
        insert_on_conflict(connection, batches)
        .values(**batch_row(batch), finished_at=database_now())
        .on_conflict_do_nothing()
    )


def _by_round(failed: Iterable[Row[*tuple[Any, ...]]], dealer: RoundDealer) -> Iterator[tuple[int, list[int]]]:
    by_round: defaultdict[int, list[int]] = defaultdict(list)
    for job in failed:
        by_round[dealer.round(job.model)].append(job.id)
    yield from by_round.items()
