"""A read-only view of a batch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """What was rendered together: its jobs in their order, and with what."""

    id: str
    worker: str
    job_row_ids: Sequence[int]
    recipe: Mapping[str, Any]
    render_seconds: float
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
        finished_at=row.finished_at,
    )
