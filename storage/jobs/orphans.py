"""Orphans: pictures of jobs that ended without one. Noted with the move that ended the job, removed by the scheduler.

A worker may have stored a picture and died before it could record it, or store it while its job is being cancelled.
"""

from sqlalchemy import ColumnElement, Connection, delete, literal, select

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import jobs, orphans
from storage.database.upsert import insert_on_conflict
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore
from storage.rules.states import State

_AT_ONCE = 200


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
        with self.database.read() as connection:
            due = connection.execute(
                select(orphans.c.job_id)
                .where(orphans.c.due_at < database_now())
                .order_by(orphans.c.due_at)
                .limit(_AT_ONCE)
            )
            ids = due.scalars().all()
        for job_id in ids:
            self._remove(job_id)
        return len(ids)

    @transaction
    def _remove(self, connection: Connection, job_id: int) -> None:
        # Locked until the object is gone: a retry waits, so that no worker adopts what is about to vanish.
        job = connection.execute(
            select(jobs.c.render_id, jobs.c.index, jobs.c.state).where(jobs.c.id == job_id).with_for_update()
        ).first()
        if job is not None and job.state in (State.FAILED, State.CANCELLED):
            self._objects.delete(picture_key(job.render_id, job._mapping["index"]))
        connection.execute(delete(orphans).where(orphans.c.job_id == job_id))
