"""Deleting one render or one picture because somebody says so, whatever its age (old ones: `storage.renders.purge`).

A render is hidden first, and then goes as in a purge. What is unfinished is cancelled in the same transaction, so that
no worker gets it; one that has it already removes what it stores (`worker.serving.publish`).
"""

from sqlalchemy import Connection, select, update

from storage.database.connection import Database, transaction
from storage.database.export_tables import exports
from storage.database.tables import api_batches, jobs, renders
from storage.errors import NotFound, StillNeeded
from storage.jobs.jobs import Jobs
from storage.jobs.transitions import lock_renders
from storage.renders.purge import bytes_of, delete_job_rows, hide
from storage.renders.views import JobView
from storage.rules.states import FINAL, State

#: Whoever retries a render again and again, at the very moments at which it is deleted, is told so.
_TRIES = 5


class Deletions:
    """Deletes rows; the pictures of a render are deleted by `scheduler.results.deletion`, as those of a job are."""

    def __init__(self, database: Database, moves: Jobs) -> None:
        self.database = database
        self._moves = moves

    def hide_render(self, render_id: str) -> int:
        """Cancel what is unfinished of a render and hide it for good; how many jobs were cancelled.

        Nothing happens to one that an export needs. Raises StillNeeded, NotFound.
        """
        for _ in range(_TRIES):
            if (cancelled := self._hide(render_id)) is not None:
                return cancelled
        raise StillNeeded(f"render {render_id} is being retried; delete it once that is over")

    @transaction
    def _hide(self, connection: Connection, render_id: str) -> int | None:
        """Hide it; None if it was retried between the two statements."""
        refuse_needed(connection, render_id)
        cancelled = self._moves.cancel_within(connection, render_id)
        # Jobs are locked before renders. An export begins under this lock: what has begun is seen after it.
        lock_renders(connection, [render_id])
        refuse_needed(connection, render_id)
        if hide(connection, render_id, renders.c.finished_at.is_not(None)):
            return cancelled
        kept = select(renders.c.id).where(renders.c.id == render_id, ~renders.c.purging)
        if connection.execute(kept).first() is None:
            raise NotFound(f"no render with id {render_id!r}; it was deleted before")
        return None

    def bytes_of(self, render_id: str) -> int:
        """Return how much space a render's pictures take."""
        with self.database.read() as connection:
            return bytes_of(connection, render_id)

    @transaction
    def check_job(self, connection: Connection, job: JobView) -> None:
        """Raise StillNeeded if a job's picture is needed: by an export, or by a batch of OpenAI's that counts lines."""
        _refuse_needed_job(connection, job)

    @transaction
    def delete_job(self, connection: Connection, job: JobView) -> None:
        """Delete the row of a final job, which its render counts no more.

        Raises StillNeeded as `check_job`, and if it was retried since; NotFound if it was deleted before.
        """
        row = connection.execute(
            select(jobs.c.id, jobs.c.state, jobs.c.bytes).where(jobs.c.id == job.row_id).with_for_update()
        ).first()
        if row is None:
            raise NotFound(f"no job with id {job.id!r}; it was deleted before")
        if row.state not in FINAL:
            raise StillNeeded(f"job {job.id} is {row.state} again; cancel it first: `farm cancel {job.id}`")
        delete_job_rows(connection, [job.row_id])
        lock_renders(connection, [job.render_id])
        _refuse_needed_job(connection, job)
        counter = {State.DONE: renders.c.done, State.FAILED: renders.c.failed, State.CANCELLED: renders.c.cancelled}
        counted, stored = counter[State(row.state)], renders.c.stored_bytes
        freed = (row.bytes or 0) if row.state == State.DONE else 0
        connection.execute(
            update(renders)
            .where(renders.c.id == job.render_id)
            .values({renders.c.total: renders.c.total - 1, counted: counted - 1, stored: stored - freed})
        )


def refuse_needed(connection: Connection, render_id: str) -> None:
    """Raise StillNeeded if an export of a render is unfinished."""
    # Without its target: this is told over HTTP, too.
    unfinished = select(exports.c.id).where(exports.c.render_id == render_id, exports.c.finished_at.is_(None))
    if (export := connection.execute(unfinished.limit(1)).first()) is not None:
        raise StillNeeded(
            f"render {render_id}: an export of it is unfinished; finish it with `farm export`, or abandon it with "
            f"`farm purge --give-up-export {export.id}`"
        )


def _refuse_needed_job(connection: Connection, job: JobView) -> None:
    refuse_needed(connection, job.render_id)
    of_batch = select(api_batches.c.id).where(api_batches.c.render_id == job.render_id)
    if (batch := connection.execute(of_batch).first()) is not None:
        raise StillNeeded(
            f"job {job.id} is a line of batch {batch.id}, which counts its pictures; "
            f"delete the whole render: {job.render_id}"
        )
