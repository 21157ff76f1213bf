"""Measures of the farm, from its rows: what waits, what was rendered recently and how fast, who uses how much."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import Connection, func, select

from storage.database.connection import Database, database_now, this_moment
from storage.database.tables import batches, jobs, renders
from storage.jobs.fair_share import queued
from storage.rules.states import Priority, State
from storage.spec.picture import Spec, read_spec

#: Batches that were read and are not read again, some of each model.
_SAMPLES_KEPT = 2000


@dataclass(frozen=True, kw_only=True)
class RenderedTotals:
    """Pipeline calls that were recorded, and how long they took together."""

    batches: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchSample:
    """A recent batch: how many pictures like this one, in how many seconds."""

    spec: Spec
    pictures: int
    #: Of the pipeline call.
    seconds: float
    worker: str
    #: When the batch was stored, in seconds since 1970.
    finished_at: float
    #: Of this one picture's file.
    bytes: int | None


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Seconds that a model's pictures spent in each stage, on average."""

    #: From submission to the device.
    queue: float
    #: In the pipeline call.
    render: float
    #: Encoded, stored and recorded, and waiting for that.
    store: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """An owner's pictures in the store; times are seconds since 1970."""

    owner: str
    renders: int
    pictures: int
    bytes: int
    oldest: float
    newest: float


class Measures:
    """Queries whose cost does not grow with the pictures; that of `usage` does with the renders."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: By the batch's id.
        self._samples: dict[str, BatchSample] = {}

    def oldest_waiting(self, models: Iterable[str]) -> dict[str, float]:
        """Return, by model, seconds since the render of its next job was submitted; only models with waiting jobs."""
        found: dict[str, float] = {}
        with self._database.read() as connection:
            for model in models:
                head = (
                    select(jobs.c.render_id)
                    .where(queued(), jobs.c.model == model)
                    .order_by(jobs.c.priority, jobs.c.round, jobs.c.id)
                    .limit(1)
                    .scalar_subquery()
                )
                age = connection.execute(select(database_now() - renders.c.created_at).where(renders.c.id == head))
                if (seconds := age.scalar()) is not None:
                    found[model] = seconds
        return found

    def made_lately(self, *, within_seconds: float) -> dict[str, RenderedTotals]:
        """Return, by model, what was rendered within this time."""
        statement = (
            select(batches.c.model, func.count().label("n"), func.sum(batches.c.render_seconds).label("seconds"))
            .where(batches.c.finished_at > this_moment() - within_seconds, batches.c.model.is_not(None))
            .group_by(batches.c.model)
        )
        with self._database.read() as connection:
            return {
                row.model: RenderedTotals(batches=row.n, seconds=row.seconds) for row in connection.execute(statement)
            }

    def stages(self, *, within_seconds: float, most: int = 300) -> dict[str, StageSeconds]:
        """Average, by model, how long recent pictures took: one picture of each of the last batches in this time."""
        spent: defaultdict[str, list[StageSeconds]] = defaultdict(list)
        for model, _, stages in self._spent(within_seconds, most):
            spent[model].append(stages)
        return {
            model: StageSeconds(
                queue=fmean(one.queue for one in some),
                render=fmean(one.render for one in some),
                store=fmean(one.store for one in some),
            )
            for model, some in spent.items()
        }

    def first_calls(self, *, within_seconds: float, most: int = 300) -> dict[tuple[str, Priority], float]:
        """Average, by model and priority, the seconds from submission to the first call of the model, likewise."""
        waits: defaultdict[tuple[str, Priority], list[float]] = defaultdict(list)
        for model, priority, stages in self._spent(within_seconds, most):
            waits[model, priority].append(stages.queue)
        return {which: fmean(some) for which, some in waits.items()}

    def _spent(self, within_seconds: float, most: int) -> Iterator[tuple[str, Priority, StageSeconds]]:
        last = (
            select(
                batches.c.model,
                batches.c.jobs,
                func.coalesce(batches.c.elapsed_seconds, batches.c.render_seconds).label("render"),
                batches.c.store_seconds,
            )
            .where(batches.c.finished_at > this_moment() - within_seconds, batches.c.model.is_not(None))
            .order_by(batches.c.finished_at.desc())
            .limit(most)
        )
        with self._database.read() as connection:
            found = {json.loads(row.jobs)[0]: row for row in connection.execute(last)}
            times = connection.execute(
                select(jobs.c.id, jobs.c.priority, jobs.c.started_at, jobs.c.finished_at, renders.c.created_at)
                .join(renders)
                .where(jobs.c.id.in_(sorted(found)), jobs.c.state == State.DONE)
            ).all()
        for row in times:
            batch = found[row.id]
            # What was claimed ahead waits on after its claim.
            store = batch.store_seconds
            if store is None:
                store = max(0.0, row.finished_at - row.started_at - batch.render)
            queue = max(0.0, row.finished_at - row.created_at - batch.render - store)
            yield batch.model, Priority(row.priority), StageSeconds(queue=queue, render=batch.render, store=store)

    def samples(self, model: str, *, most: int = 200) -> list[BatchSample]:
        """List the last batches of a model, for estimating others."""
        last = select(batches.c.id).where(batches.c.model == model).order_by(batches.c.finished_at.desc()).limit(most)
        with self._database.ask() as connection:
            ids = connection.execute(last).scalars().all()
            # Whoever submits is told an estimate: two hundred recipes are not read for each.
            known = {batch: self._samples[batch] for batch in ids if batch in self._samples}
            found = known | dict(_samples(connection, [batch for batch in ids if batch not in known]))
        whole = {batch: sample for batch, sample in found.items() if sample.bytes is not None}
        self._samples = (self._samples if len(self._samples) < _SAMPLES_KEPT else {}) | whole
        return [found[batch] for batch in ids if batch in found]

    def usage(self, *, owner: str | None = None) -> list[Usage]:
        """Return what each owner's pictures take up, by owner, or one owner's; reads a row of each render.

        A picture that was deleted by itself still counts for `oldest` and `newest`, as long as its render has others.
        """
        statement = (
            select(
                renders.c.owner,
                func.count().label("renders"),
                func.sum(renders.c.done).label("pictures"),
                func.sum(renders.c.stored_bytes).label("bytes"),
                func.min(renders.c.first_done_at).label("oldest"),
                func.max(renders.c.last_done_at).label("newest"),
            )
            .where(renders.c.done > 0)
            .group_by(renders.c.owner)
            .order_by(renders.c.owner)
        )
        if owner is not None:
            statement = statement.where(renders.c.owner == owner)
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [Usage(**{**row._mapping, "pictures": int(row.pictures), "bytes": int(row.bytes)}) for row in rows]


def _samples(connection: Connection, ids: Sequence[str]) -> Iterator[tuple[str, BatchSample]]:
    """Yield batches with their ids, as far as the first picture of each is still there."""
    if not ids:
        return
    columns = (batches.c.id, batches.c.jobs, batches.c.render_seconds, batches.c.worker, batches.c.finished_at)
    rows = connection.execute(select(*columns).where(batches.c.id.in_(ids))).all()
    pictures = {row.id: json.loads(row.jobs) for row in rows}
    first = select(jobs.c.id, jobs.c.spec, jobs.c.bytes).where(jobs.c.id.in_([ids[0] for ids in pictures.values()]))
    by_id = {row.id: row for row in connection.execute(first)}
    for row in rows:
        if (job := by_id.get(pictures[row.id][0])) is not None:
            yield (
                row.id,
                BatchSample(
                    spec=read_spec(job.spec),
                    pictures=len(pictures[row.id]),
                    seconds=row.render_seconds,
                    worker=row.worker,
                    finished_at=row.finished_at,
                    bytes=job.bytes,
                ),
            )
