"""A read-only view of a batch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.rules.ids import job_id


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """What was rendered together: its jobs in their order, and with what."""

    id: str
    worker: str
    job_row_ids: Sequence[int]
    recipe: Mapping[str, Any]
    #: Of the device, for these pictures.
    render_seconds: float
    #: From the first of their steps to the last; None: as long.
    elapsed_seconds: float | None
    #: From then until they were stored; None: it was not noted.
    store_seconds: float | None
    finished_at: float

    def recipe_with(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return with what one of its pictures was made, given what its row says of it alone."""
        return {**self.recipe, **own}


def read_batch(row: Row[Any]) -> BatchView:
    """Return the batch in a row."""
    return BatchView(
        id=row.id,
        worker=row.worker,
        job_row_ids=json.loads(row.jobs),
        recipe=json.loads(row.recipe),
        render_seconds=row.render_seconds,
        elapsed_seconds=row.elapsed_seconds,
        store_seconds=row.store_seconds,
        finished_at=row.finished_at,
    )


def mates(database: Database, batch: BatchView, *, owner: str | None) -> list[str]:
    """Return the ids of a batch's pictures, in the order in which they were rendered: an owner's, or everybody's.

    Without those that were deleted since.
    """
    theirs = jobs.c.id.in_(batch.job_row_ids) & ~renders.c.purging
    if owner is not None:
        theirs &= renders.c.owner == owner
    with database.read() as connection:
        rows = connection.execute(select(jobs.c.id, jobs.c.render_id, jobs.c.index).join(renders).where(theirs))
        ids = {row.id: job_id(row.render_id, row._mapping["index"]) for row in rows}
    return [ids[row_id] for row_id in batch.job_row_ids if row_id in ids]
