"""Which jobs a worker gets: the head of a model's queue and the next ones that one pipeline call can make with it."""

from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, or_, select, text

from storage.database.connection import database_now
from storage.database.tables import jobs
from storage.events.log import EventKind, record_events
from storage.fleet.quarantines import quarantined
from storage.jobs.fair_share import queued
from storage.jobs.transitions import of_watched, transition
from storage.jobs.values import Claim, ClaimedJob
from storage.rules.faults import RetryPolicy
from storage.rules.states import Priority, Transition
from storage.spec.picture import read_spec

_CLAIMED: tuple[Column[Any], ...] = (
    jobs.c.id,
    jobs.c.render_id,
    jobs.c.index,
    jobs.c.spec,
    jobs.c.fence,
    jobs.c.attempt,
    jobs.c.priority,
    jobs.c.round,
    jobs.c.watched,
    jobs.c.threads,
)

#: A claimer that says nothing for so long has been stopped; a claim takes milliseconds. Far below a lease.
_FROZEN = "5s"


def take(connection: Connection, rules: RetryPolicy, *, model: str, worker: str, limit: int) -> Claim | None:
    """Make up to `limit` waiting jobs this worker's; None if there is nothing for it."""
    one_claim_at_a_time(connection, model)
    head = connection.execute(head_of(model, worker).with_for_update(skip_locked=True)).first()
    if head is None:
        return None
    kind = jobs.c.id == head.id if head.suspect else (jobs.c.batch_key == head.batch_key) & ~jobs.c.suspect
    chosen = connection.execute(
        select(jobs.c.id)
        .where(queued(), kind, _open_to(worker))
        .order_by(jobs.c.priority, jobs.c.round, jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).scalars()
    claimed = connection.execute(
        transition(Transition.CLAIM)
        .where(jobs.c.id.in_(chosen.all()))
        .values(
            fence=jobs.c.fence + 1,
            attempt=jobs.c.attempt + 1,
            worker=worker,
            lease_until=database_now() + rules.lease_seconds,
            started_at=database_now(),
            error=None,
            fault=None,
        )
        .returning(*_CLAIMED)
    ).all()
    left = connection.execute(head_of(model, worker)).first()
    found = tuple(
        ClaimedJob(
            id=row.id,
            render_id=row.render_id,
            index=row._mapping["index"],
            spec=read_spec(row.spec),
            fence=row.fence,
            attempt=row.attempt,
            watched=row.watched,
            priority=Priority(row.priority),
            threads=row.threads,
        )
        for row in sorted(claimed, key=lambda row: (row.priority, row.round, row.id))
    )
    record_events(
        connection, of_watched(EventKind.JOB_STARTED, found, lambda job: {"worker": worker, "attempt": job.attempt})
    )
    return Claim(
        jobs=found,
        next_priority=None if left is None else Priority(left.priority),
    )


def head_of(model: str, worker: str | None = None) -> Select[Any]:
    """Select the next job of a model, for this worker or for any."""
    head = select(jobs.c.id, jobs.c.batch_key, jobs.c.suspect, jobs.c.priority).where(queued(), jobs.c.model == model)
    if worker is not None:
        head = head.where(_open_to(worker), ~quarantined(worker, model))
    return head.order_by(jobs.c.priority, jobs.c.round, jobs.c.id).limit(1)


def _open_to(worker: str) -> ColumnElement[bool]:
    """Match jobs that this worker need not leave to others."""
    return or_(jobs.c.elsewhere_until.is_(None), jobs.c.worker != worker, jobs.c.elsewhere_until < database_now())


def one_claim_at_a_time(connection: Connection, model: str) -> None:
    """Serialise the claims of one model (SQLite's transactions are serial anyway).

    Two interleaved claims would each get a part of what belongs in one batch. The lock goes with the transaction, and
    with the connection of a claimer that was stopped in the middle: its
    next statement fails, and nothing was claimed.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "SELECT set_config('idle_in_transaction_session_timeout', :frozen, true), "
                "pg_advisory_xact_lock(hashtextextended(:name, 0))"
            ),
            {"name": f"claim:{model}", "frozen": _FROZEN},
        )
