"""The completion of a batch: one UPDATE for all of its pictures."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, String, Text, bindparam, select
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.types import TypeEngine

from storage.database.connection import Database, database_now
from storage.database.sent_rows import sent_rows
from storage.database.tables import jobs
from storage.jobs.transitions import transition
from storage.jobs.values import ClaimedJob, Published, RenderedBatch
from storage.rules.states import State, Transition

_SENT: dict[str, TypeEngine[Any]] = {
    "id": BigInteger(),
    "fence": Integer(),
    "object": Text(),
    "sha256": String(64),
    "bytes": Integer(),
    "pixels_sha256": String(64),
    "remarks": Text(),
    "own_recipe": Text(),
}


_COMPLETE_BATCH = "SELECT complete_batch(%s, %s, %s, %s, %s, %s, %s, %s, %s)"


def complete_at_once(database: Database, batch: RenderedBatch, published: Sequence[Published]) -> bool:
    """Make these jobs done in one round trip to PostgreSQL; False if that cannot, and has done nothing."""
    pictures = json.dumps([_row(picture) | _told(picture) for picture in published], ensure_ascii=False)
    return bool(database.call(_COMPLETE_BATCH, (*batch_row(batch).values(), pictures))[0][0])


def batch_row(batch: RenderedBatch) -> dict[str, Any]:
    """Return the row of a batch, but for when it was finished."""
    return {
        "id": batch.id,
        "worker": batch.worker,
        "model": batch.model,
        "jobs": json.dumps([job.id for job in batch.jobs]),
        "recipe": json.dumps(batch.recipe, sort_keys=True),
        "render_seconds": batch.render_seconds,
        "elapsed_seconds": batch.elapsed_seconds,
        "store_seconds": batch.store_seconds,
    }


def told_of(picture: Published) -> dict[str, Any]:
    """Return what followers of a render hear of a picture that is done."""
    return {"seed": picture.job.spec.seed, "sha256": picture.sha256}


def stored_bytes(published: Iterable[Published]) -> dict[str, int]:
    """Return how much the files of these pictures take, by render."""
    stored: Counter[str] = Counter()
    for picture in published:
        stored[picture.job.render_id] += picture.bytes
    return stored


def complete(connection: Connection, batch: RenderedBatch, published: Sequence[Published]) -> dict[int, Published]:
    """Make these jobs done with their pictures; those that were ours, by id."""
    pictures = {picture.job.id: picture for picture in published}
    moved = connection.execute(
        _completing(connection.dialect.name),
        {"batch": batch.id, "published": [_row(picture) for picture in pictures.values()]},
    )
    return {job_id: pictures[job_id] for job_id in sorted(moved.scalars())}


@cache
def _completing(dialect: str) -> ReturningUpdate[Any]:
    sent = sent_rows(dialect, "published", _SENT)
    # Locked in the order of ids, as everywhere: two completions of the same jobs never wait for each other.
    ours = (
        select(jobs.c.id)
        .where(jobs.c.id == sent["id"], jobs.c.fence == sent["fence"])
        .order_by(jobs.c.id)
        .with_for_update(of=jobs)
        .correlate(None)
    )
    return (
        transition(Transition.COMPLETE, by_id=True)
        .where(jobs.c.id == sent["id"], jobs.c.id.in_(ours))
        .values(
            finished_at=database_now(),
            lease_until=None,
            batch_id=bindparam("batch"),
            **{name: sent[name] for name in _SENT if name not in ("id", "fence")},
        )
        .returning(jobs.c.id)
    )


def refusals(connection: Connection, others: Iterable[ClaimedJob]) -> dict[int, State | None]:
    """Tell which jobs are not done by their fence, with their present state; None: deleted with their render."""
    fences = {job.id: job.fence for job in others}
    if not fences:
        return {}
    found = connection.execute(select(jobs.c.id, jobs.c.state, jobs.c.fence).where(jobs.c.id.in_(fences)))
    present = {row.id: (State(row.state), row.fence) for row in found}
    done = {job_id for job_id, fence in fences.items() if present.get(job_id) == (State.DONE, fence)}
    return {job_id: present[job_id][0] if job_id in present else None for job_id in fences if job_id not in done}


def _told(picture: Published) -> dict[str, str]:
    return {"told": json.dumps(told_of(picture))} if picture.job.watched else {}


def _row(picture: Published) -> dict[str, str | int | None]:
    return {
        "id": picture.job.id,
        "fence": picture.job.fence,
        "object": picture.object,
        "sha256": picture.sha256,
        "bytes": picture.bytes,
        "pixels_sha256": picture.pixels_sha256,
        "remarks": json.dumps(picture.remarks, ensure_ascii=False) if picture.remarks else None,
        "own_recipe": json.dumps(picture.own_recipe, sort_keys=True) if picture.own_recipe else None,
    }
