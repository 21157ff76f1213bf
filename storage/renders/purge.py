"""Deleting whole renders: first they are hidden, then their pictures go, then their rows, the render's own row last.

An interrupted purge resumes on the next run, on this machine or another.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, delete, func, select, update

from storage.database.connection import Database, database_now, transaction
from storage.database.export_tables import exports
from storage.database.tables import api_batches, batches, events, faults, jobs, orphans, renders
from storage.database.webhook_tables import deliveries
from storage.jobs.transitions import lock_renders
from storage.objects.object_keys import picture_key
from storage.rules.states import State, render_state

#: Rows per transaction: other writers wait no longer than that.
_AT_ONCE = 500
#: Tables with several rows per picture → the column that tells them apart.
_LOGS: dict[Table, Column[Any]] = {events: events.c.seq, deliveries: deliveries.c.id}


@dataclass(frozen=True, kw_only=True)
class PurgeCandidate:
    """A render that could be deleted."""

    render_id: str
    owner: str
    state: str
    finished_at: float
    #: Jobs that are done; all jobs.
    pictures: int
    jobs: int
    bytes: int
    #: Kept, since an export of it is unfinished.
    needed: bool


class PurgeRows:
    def __init__(self, database: Database) -> None:
        self.database = database

    def old(self, *, seconds: float, states: Collection[str] = (), owner: str | None = None) -> list[PurgeCandidate]:
        """List renders that finished at least so long ago, oldest first; only those in `states`, if any are given."""
        last = database_now() - seconds
        # The few numbers of a render first, the sizes of its pictures only of those that are old.
        statement = (
            select(renders, _exported().label("needed"))
            .where(renders.c.finished_at <= last, ~renders.c.purging)
            .order_by(renders.c.finished_at, renders.c.id)
        )
        if owner is not None:
            statement = statement.where(renders.c.owner == owner)
        with self.database.read() as connection:
            found = [
                (row, state)
                for row in connection.execute(statement)
                if (state := render_state(total=row.total, done=row.done, failed=row.failed, cancelled=row.cancelled))
                in (states or {state})
            ]
            sizes = {row.id: bytes_of(connection, row.id) for row, _ in found}
        return [
            PurgeCandidate(
                render_id=row.id,
                owner=row.owner,
                state=state,
                finished_at=row.finished_at,
                pictures=row.done,
                jobs=row.total,
                bytes=sizes[row.id],
                needed=bool(row.needed),
            )
            for row, state in found
        ]

    @transaction
    def mark(self, connection: Connection, old: PurgeCandidate) -> bool:
        """Hide a render for good; False if it was retried since it was listed, or an export needs it.

        Its idempotency key is free again: a request of that name is a new one.
        """
        # An export begins under the same lock (`storage.renders.exports`): a statement after it sees what has begun.
        lock_renders(connection, [old.render_id])
        return hide(connection, old.render_id, (renders.c.finished_at == old.finished_at) & ~_exported())

    def marked(self) -> list[str]:
        """List renders that are hidden but not deleted yet."""
        with self.database.ask() as connection:
            return [*connection.execute(_marked()).scalars()]

    def next_pictures(self, render_id: str) -> list[tuple[int, str]]:
        """Return row id and object key of the next jobs, also of unfinished ones, which may have left an object."""
        statement = select(jobs.c.id, jobs.c.index).where(jobs.c.render_id == render_id).order_by(jobs.c.id)
        with self.database.read() as connection:
            rows = connection.execute(statement.limit(_AT_ONCE))
            return [(row.id, picture_key(render_id, row._mapping["index"])) for row in rows]

    @transaction
    def delete_jobs(self, connection: Connection, job_ids: Collection[int]) -> None:
        """Delete the rows of jobs whose pictures are deleted, and whatever belongs to these alone."""
        delete_job_rows(connection, job_ids)

    @transaction
    def delete_logs(self, connection: Connection, render_id: str) -> int:
        """Delete some of a render's events and deliveries; how many rows."""
        deleted = 0
        for table, key in _LOGS.items():
            theirs = table.c.render_id == render_id
            some = select(key).where(theirs).order_by(key).limit(_AT_ONCE)
            deleted += connection.execute(delete(table).where(theirs, key.in_(some))).rowcount
        return deleted

    def finished_for(self, render_id: str) -> float | None:
        """Return for how many seconds a hidden render has been finished; None if it is deleted."""
        statement = select(database_now() - renders.c.finished_at).where(renders.c.id == render_id, renders.c.purging)
        with self.database.read() as connection:
            found: float | None = connection.execute(statement).scalar()
        return found

    @transaction
    def delete_render(self, connection: Connection, render_id: str) -> None:
        """Delete what is left of a render without jobs."""
        # Events are recorded under the render's lock: none is between these statements.
        lock_renders(connection, [render_id])
        for table in (*_LOGS, exports):
            connection.execute(delete(table).where(table.c.render_id == render_id))
        connection.execute(delete(renders).where(renders.c.id == render_id, renders.c.purging))


def bytes_of(connection: Connection, render_id: str) -> int:
    """Return how much space a render's pictures take."""
    total = select(func.coalesce(func.sum(jobs.c.bytes), 0)).where(
        jobs.c.render_id == render_id, jobs.c.state == State.DONE
    )
    return int(connection.execute(total).scalar_one())


def hide(connection: Connection, render_id: str, which: ColumnElement[bool]) -> bool:
    """Hide a render for good, if it is such a one; its idempotency key is free again. The caller has locked its row."""
    this = (renders.c.id == render_id) & ~renders.c.purging
    hidden = connection.execute(
        update(renders).where(this, which).values(purging=True, idempotency_key=None, request_hash=None)
    ).rowcount
    if hidden:
        # At once: how a batch stands is read from its render.
        connection.execute(delete(api_batches).where(api_batches.c.render_id == render_id))
    return hidden > 0


def delete_job_rows(connection: Connection, job_ids: Collection[int]) -> None:
    """Delete the rows of jobs, and whatever belongs to these alone."""
    batch_ids = set(connection.execute(select(jobs.c.batch_id).where(jobs.c.id.in_(job_ids))).scalars()) - {None}
    connection.execute(delete(faults).where(faults.c.job_id.in_(job_ids)))
    connection.execute(delete(orphans).where(orphans.c.job_id.in_(job_ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(job_ids)))
    _delete_batches(connection, batch_ids)


@cache
def _marked() -> Select[str]:
    """Select hidden renders: built once, for it is asked every other second."""
    return select(renders.c.id).where(renders.c.purging).order_by(renders.c.id)


def _exported() -> ColumnElement[bool]:
    unfinished = (exports.c.render_id == renders.c.id) & exports.c.finished_at.is_(None)
    return select(exports.c.id).where(unfinished).correlate(renders).exists()


def _delete_batches(connection: Connection, batch_ids: Iterable[str]) -> None:
    """Delete batches of which no picture is left; others are needed to render a mate again (`farm rerender`)."""
    of_batch = {
        row.id: json.loads(row.jobs)
        for row in connection.execute(select(batches.c.id, batches.c.jobs).where(batches.c.id.in_(sorted(batch_ids))))
    }
    mates = {job_id for ids in of_batch.values() for job_id in ids}
    left = set(
        connection.execute(
            select(jobs.c.batch_id).where(jobs.c.id.in_(sorted(mates)), jobs.c.state == State.DONE)
        ).scalars()
    )
    connection.execute(delete(batches).where(batches.c.id.in_(sorted(of_batch.keys() - left))))
