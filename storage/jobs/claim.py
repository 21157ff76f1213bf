"""Which jobs a worker gets: the head of a model's queue and the next ones that one pipeline call can make with it."""

from collections.abc import Sequence
from functools import cache
from operator import itemgetter
from types import EllipsisType
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Double, Select, bindparam, null, or_, select, text
from sqlalchemy.sql.dml import ReturningUpdate

from storage.database.connection import Database, database_now
from storage.database.tables import jobs
from storage.events.log import EventKind, NewEvent, record_events
from storage.fleet.quarantines import quarantined
from storage.jobs.fair_share import queued
from storage.jobs.transitions import transition
from storage.jobs.values import Claim, ClaimedJob
from storage.rules.faults import RetryPolicy
from storage.rules.states import Priority, Transition
from storage.spec.models import MOST_AT_ONCE
from storage.spec.picture import read_spec

_CLAIMED: tuple[ColumnElement[Any], ...] = (
    jobs.c.id,
    jobs.c.render_id,
    jobs.c.index,
    null().label("spec"),
    jobs.c.fence,
    jobs.c.attempt,
    jobs.c.priority,
    jobs.c.round,
    jobs.c.watched,
    jobs.c.threads,
    null().label("replay"),
    jobs.c.suspect,
    jobs.c.batch_key,
)
#: The same as what functions return, in this order, with the priority of what is left behind it.
_Row = Sequence[Any]
#: Of their texts, that are read with the claim. What a claimer does not hear, for it was stopped, fills the buffers of
#: sockets; beyond them the server waits for it with its locks, for ever: the answer goes before the commit.
_MOST_BYTES = 32 * 2**10

#: A claimer that says nothing for so long has been stopped; a claim takes milliseconds. Far below a lease.
_FROZEN = "5s"
_NEXT_BATCH = text(
    "SELECT chosen, next_priority, set_config('idle_in_transaction_session_timeout', :frozen, true) "
    "FROM next_batch(:model, :worker, :limit)"
)


_CLAIM_BATCH = (
    "SELECT id, render_id, index, spec, fence, attempt, priority, round, watched, threads, replay, suspect, batch_key, "
    "next_priority FROM claim_batch(%s, %s, %s, %s, %s)"
)
_TEXTS = select(jobs.c.id, jobs.c.spec, jobs.c.replay).where(jobs.c.id.in_(bindparam("ids", expanding=True)))


def take_at_once(
    database: Database, rules: RetryPolicy, *, model: str, worker: str, limit: int
) -> Claim | EllipsisType | None:
    """Do as `take` in one round trip to PostgreSQL; `...` if that cannot, and has done nothing."""
    asked = (model, worker, limit, rules.lease_seconds, _MOST_BYTES)
    rows = database.call(_CLAIM_BATCH, asked)
    if not rows:
        return None
    if rows[0][0] is None:
        return ...
    return claim_of(database, rows)


def take(connection: Connection, rules: RetryPolicy, *, model: str, worker: str, limit: int) -> Sequence[_Row] | None:
    """Make up to `limit` waiting jobs this worker's, as `claim_of` takes them; None if there is nothing for it."""
    choose = _chosen_by_server if connection.dialect.name == "postgresql" else _chosen_alone
    chosen = choose(connection, model, worker, limit)
    if chosen is None:
        return None
    claimed = connection.execute(
        _claiming(), {"ids": chosen.ids, "by": worker, "lease_seconds": rules.lease_seconds}
    ).all()
    watched = sorted((row for row in claimed if row.watched), key=lambda row: (row.priority, row.round, row.id))
    record_events(
        connection,
        [
            NewEvent(
                render_id=row.render_id,
                kind=EventKind.JOB_STARTED,
                index=row._mapping["index"],
                data={"worker": worker, "attempt": row.attempt},
            )
            for row in watched
        ],
    )
    return [(*row, chosen.next_priority) for row in claimed]


def claim_of(database: Database, rows: Sequence[_Row]) -> Claim | None:
    """Return the claim of these rows, once it is committed; None if all were deleted with their renders since."""
    if rows[0][3] is None:
        rows = _with_texts(database, rows)
    if not rows:
        return None
    left = rows[0][-1]
    found = tuple(
        ClaimedJob(
            id=id_,
            render_id=render_id,
            index=index,
            spec=read_spec(spec),
            fence=fence,
            attempt=attempt,
            watched=watched,
            priority=Priority(priority),
            threads=threads,
            replay=replay,
            suspect=suspect,
            together=_is_together(batch_key),
        )
        for (
            id_,
            render_id,
            index,
            spec,
            fence,
            attempt,
            priority,
            _,
            watched,
            threads,
            replay,
            suspect,
            batch_key,
            _,
        ) in sorted(rows, key=itemgetter(6, 7, 0))  # the queue's order: priority, round, id
    )
    return Claim(jobs=found, next_priority=None if left is None else Priority(left))


def _with_texts(database: Database, rows: Sequence[_Row]) -> Sequence[_Row]:
    """Read what the rows lack; nobody changes it, and who reads it locks nothing."""
    with database.read() as connection:
        texts = {row.id: row for row in connection.execute(_TEXTS, {"ids": [row[0] for row in rows]})}
    return [
        (*row[:3], texts[row[0]].spec, *row[4:10], texts[row[0]].replay, *row[11:]) for row in rows if row[0] in texts
    ]


@cache
def _claiming() -> ReturningUpdate[Any]:
    # One moment for the whole batch: a clock is read again for each row.
    now = select(database_now()).scalar_subquery()
    return (
        transition(Transition.CLAIM, by_id=True)
        .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
        .values(
            fence=jobs.c.fence + 1,
            attempt=jobs.c.attempt + 1,
            worker=bindparam("by"),
            lease_until=now + bindparam("lease_seconds", type_=Double),
            started_at=now,
            error=None,
            fault=None,
        )
        .returning(*_CLAIMED)
    )


class _Chosen(NamedTuple):
    """The jobs of the next batch, locked, and the priority of what is left for this worker."""

    ids: Sequence[int]
    next_priority: int | None


def _chosen_by_server(connection: Connection, model: str, worker: str, limit: int) -> _Chosen | None:
    """Have PostgreSQL choose in one round trip (`next_batch`, of the migrations), one claim of a model at a time.

    Two that chose at once would each get a part of what belongs in one batch. They wait for each other only while they
    choose: a claimer that is far away, or was stopped in the middle, holds up nobody. Its rows are passed over.
    """
    asked = {"model": model, "worker": worker, "limit": limit, "frozen": _FROZEN}
    found = connection.execute(_NEXT_BATCH, asked).first()
    return None if found is None else _Chosen(found.chosen, found.next_priority)


def _chosen_alone(connection: Connection, model: str, worker: str, limit: int) -> _Chosen | None:
    """Choose on SQLite, whose transactions are serial."""
    head = connection.execute(head_of(model, worker)).first()
    if head is None:
        return None
    kind = jobs.c.id == head.id if head.suspect else (jobs.c.batch_key == head.batch_key) & ~jobs.c.suspect
    waiting = select(jobs.c.id).where(queued(), kind, _open_to(worker))
    # What is made again together is claimed whole: with fewer neighbours it would not come out the same.
    limit = MOST_AT_ONCE if _is_together(head.batch_key) else limit
    ids = connection.execute(waiting.order_by(jobs.c.priority, jobs.c.round, jobs.c.id).limit(limit)).scalars().all()
    left = connection.execute(head_of(model, worker).where(jobs.c.id.not_in(ids))).first()
    return _Chosen(ids, None if left is None else left.priority)


def _is_together(batch_key: str) -> bool:
    """Tell whether a batch key is of one render's jobs alone (`Submission.together`)."""
    return ":" in batch_key


def head_of(model: str, worker: str | None = None) -> Select[Any]:
    """Select the next job of a model, for this worker or for any."""
    head = select(jobs.c.id, jobs.c.batch_key, jobs.c.suspect, jobs.c.priority).where(queued(), jobs.c.model == model)
    if worker is not None:
        head = head.where(_open_to(worker), ~quarantined(worker, model))
    return head.order_by(jobs.c.priority, jobs.c.round, jobs.c.id).limit(1)


def _open_to(worker: str) -> ColumnElement[bool]:
    """Match jobs that this worker need not leave to others."""
    return or_(jobs.c.elsewhere_until.is_(None), jobs.c.worker != worker, jobs.c.elsewhere_until < database_now())
