"""Orphans: pictures of jobs that ended without one. Noted with the move that ended the job, removed by the scheduler.

A worker may have stored a picture and died before it could record it, or store it while its job is being cancelled.

No lock is held while a picture is deleted, for the store may hang: the orphan is marked, then its picture goes, then
its row. While it is marked its job is not retried (`being_removed`): a worker would adopt what is about to vanish.
"""

import time
from functools import cache

from sqlalchemy import ColumnElement, Connection, Select, delete, literal, or_, select, update

from storage.database.connection import Database, database_now, this_moment, transaction
from storage.database.tables import jobs, orphans
from storage.database.upsert import insert_on_conflict
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore
from storage.rules.states import State

_AT_ONCE = 200
#: A mark outlives its process by so much; the store's client gives up a deletion well before.
_MARKED_SECONDS = 180.0
#: Whoever was stopped for so long after marking does not begin to delete.
_FRESH_SECONDS = 30.0


def note_orphans(connection: Connection, which: ColumnElement[bool], *, after_seconds: float) -> None:
    """Have the pictures of these jobs removed after some time, unless the jobs are retried before."""
    due = database_now() + literal(after_seconds)
    statement = insert_on_conflict(connection, orphans).from_select(
        ["job_id", "due_at"], select(jobs.c.id, due).where(which)
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=[orphans.c.job_id], set_={"due_at": statement.excluded.due_at})
    )


class Orphans:
    """Removes orphans."""

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self.database = database
        self._objects = objects

    def remove_due(self) -> int:
        """Remove orphans that are due, some hundred at once; how many there were.

        Raises DatabaseProblem, ObjectStoreProblem; the next call resumes.
        """
        with self.database.ask() as connection:
            ids = connection.execute(_due()).scalars().all()
        for job_id in ids:
            begun = time.monotonic()
            marked = self._mark(job_id)
            if marked is not None and time.monotonic() - begun < _FRESH_SECONDS:
                key, due_at = marked
                self._objects.delete(key)
                self._forget(job_id, due_at)
        return len(ids)

    @transaction
    def _mark(self, connection: Connection, job_id: int) -> tuple[str, float] | None:
        """Mark an orphan; its picture's key and when it was due. None if there is nothing to remove for us."""
        # Its job is locked: a retry comes before the mark, and then there is none, or finds it.
        job = connection.execute(
            select(jobs.c.render_id, jobs.c.index, jobs.c.state).where(jobs.c.id == job_id).with_for_update()
        ).first()
        if job is None or job.state not in (State.FAILED, State.CANCELLED):
            connection.execute(delete(orphans).where(orphans.c.job_id == job_id))
            return None
        due_at = connection.execute(
            update(orphans)
            .where(orphans.c.job_id == job_id, _unmarked())
            .values(marked_until=database_now() + _MARKED_SECONDS)
            .returning(orphans.c.due_at)
        ).scalar()
        return None if due_at is None else (picture_key(job.render_id, job._mapping["index"]), due_at)

    @transaction
    def _forget(self, connection: Connection, job_id: int, due_at: float) -> None:
        """Delete an orphan's row, unless its picture was stored again meanwhile: then it is removed again."""
        this = orphans.c.job_id == job_id
        if not connection.execute(delete(orphans).where(this, orphans.c.due_at == due_at)).rowcount:
            connection.execute(update(orphans).where(this).values(marked_until=None))


def being_removed(render_id: str) -> Select[int]:
    """Select the jobs of a render whose pictures are being deleted at this moment."""
    theirs = select(orphans.c.job_id).join(jobs, jobs.c.id == orphans.c.job_id).where(jobs.c.render_id == render_id)
    return theirs.where(orphans.c.marked_until > database_now())


@cache
def _due() -> Select[int]:
    """Select orphans that are due: built once, for it is asked every other second."""
    due = select(orphans.c.job_id).where(orphans.c.due_at < this_moment(), _unmarked())
    return due.order_by(orphans.c.due_at).limit(_AT_ONCE)


def _unmarked() -> ColumnElement[bool]:
    return or_(orphans.c.marked_until.is_(None), orphans.c.marked_until < database_now())
