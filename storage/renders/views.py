"""Read-only views of renders, jobs and batches, as frozen values."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, func, select, tuple_

from storage.database.connection import Database, this_moment
from storage.database.tables import batches, jobs, renders, workers
from storage.errors import NotFound
from storage.fleet.workers import read_progress
from storage.jobs.fair_share import queued
from storage.renders.batch_views import BatchView, read_batch
from storage.renders.filters import JobFilter, RenderFilter, newer, older, on_device, order
from storage.rules.faults import Fault
from storage.rules.ids import job_id, parse_job_id
from storage.rules.render_times import RenderTimes
from storage.rules.states import FINAL, Priority, RenderState, State, render_state

if TYPE_CHECKING:
    # Its models take as long to import as half of what a list of renders needs.
    from storage.spec.picture import Spec

_PAGE = 1000
_RENDER_ID = re.compile(r"[0-9a-z]{1,32}")


@dataclass(frozen=True, kw_only=True)
class RenderView:
    id: str
    owner: str
    priority: Priority
    total: int
    done: int
    failed: int
    cancelled: int
    created_at: float
    finished_at: float | None
    #: Taken out of the queue until it is released.
    held: bool = False
    #: When it may be rendered; None: at any time.
    times: RenderTimes | None = None
    #: Whether it last followed that this is not now.
    times_shut: bool = False
    #: One of its pictures is on a device. It comes and goes with each batch, and so makes no other view of it.
    running: bool = field(default=False, compare=False)

    #: What its owner calls it, and says of it.
    name: str | None = None
    note: str | None = None
    models: tuple[str, ...] = ()

    @property
    def state(self) -> RenderState:
        counters = {"total": self.total, "done": self.done, "failed": self.failed, "cancelled": self.cancelled}
        return render_state(**counters, held=self.held, running=self.running)

    @property
    def remaining(self) -> int:
        return self.total - self.done - self.failed - self.cancelled

    @property
    def finished(self) -> bool:
        return self.remaining == 0


@dataclass(frozen=True, kw_only=True)
class JobView:
    row_id: int
    render_id: str
    index: int
    spec: "Spec"
    state: State
    attempt: int
    worker: str | None
    started_at: float | None
    finished_at: float | None
    batch_id: str | None
    object: str | None
    sha256: str | None
    bytes: int | None
    #: What went wrong last, if it has not gone well since.
    fault: Fault | None
    error: str | None
    custom_id: str | None = None
    labels: Mapping[str, Any] | None = None
    #: Of the picture's pixels; None for pictures of the farm's first versions.
    pixels_sha256: str | None = None
    #: What its worker says of it.
    remarks: tuple[str, ...] = ()
    #: What its recipe says beside its batch's (`BatchView.recipe_with`).
    own_recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name that people use: `<render>-<index>`."""
        return job_id(self.render_id, self.index)

    @property
    def file_name(self) -> str:
        """The picture's name in a folder of one render's pictures."""
        return f"{self.index:06d}-{self.spec.seed}.png"


class Views:
    """Answers about renders, jobs and batches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def render(self, render_id: str, *, owner: str | None = None) -> RenderView:
        """Return a render. Raises NotFound, also for another owner's."""
        row = None
        if _RENDER_ID.fullmatch(render_id):
            with self._database.ask() as connection:
                row = connection.execute(select_renders().where(renders.c.id == render_id)).first()
        if row is None or row.purging or owner not in (None, row.owner):
            raise NotFound(f"no render with id {render_id[:40]!r}; `farm status` lists them")
        return read_render(row)

    def renders(
        self,
        *,
        limit: int = 20,
        owner: str | None = None,
        after: str | None = None,
        before: str | None = None,
        which: RenderFilter | None = None,
    ) -> list[RenderView]:
        """List the newest renders, an owner's or such, newest first; those next to one. Raises NotFound for that one.

        Args:
            after: the next older ones.
            before: the next newer ones, also newest first.
        """
        which = which or RenderFilter(owner=owner)
        statement = select_renders().limit(limit).order_by(*order(newest_first=before is None))
        if after is not None:
            statement = statement.where(older(self.render(after, owner=owner)))
        if before is not None:
            statement = statement.where(newer(self.render(before, owner=owner)))
        with self._database.ask() as connection:
            narrowed = which.narrow(statement, dialect=connection.dialect.name)
            found = [read_render(row) for row in connection.execute(narrowed)]
        return found if before is None else found[::-1]

    def accepted_as(self, owner: str, name: str) -> bool:
        """Return whether a request of this owner was accepted under this idempotency key."""
        with self._database.read() as connection:
            found = connection.execute(
                select(renders.c.id).where(renders.c.owner == owner, renders.c.idempotency_key == name)
            ).first()
        return found is not None

    def latest_of(self, owner: str, request_hash: str, *, within_seconds: float) -> str | None:
        """Return the id of an owner's last render with this request hash, within this time."""
        statement = (
            select(renders.c.id)
            .where(
                renders.c.owner == owner,
                renders.c.created_at > this_moment() - within_seconds,
                renders.c.request_hash == request_hash,
            )
            .order_by(renders.c.created_at.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            found: str | None = connection.execute(statement).scalar()
        return found

    def unfinished_jobs(self) -> int:
        """Count the jobs of all renders that wait or run, without held ones."""
        left = renders.c.total - renders.c.done - renders.c.failed - renders.c.cancelled
        with self._database.read() as connection:
            statement = select(func.coalesce(func.sum(left), 0)).where(renders.c.finished_at.is_(None), ~renders.c.held)
            return int(connection.execute(statement).scalar_one())

    def job(self, job_id: str, *, owner: str | None = None) -> JobView:
        """Return a job. Raises NotFound, also for another owner's."""
        render_id, index = _split(job_id)
        this = (jobs.c.render_id == render_id) & (jobs.c.index == index) & ~renders.c.purging
        if owner is not None:
            this &= renders.c.owner == owner
        with self._database.ask() as connection:
            row = connection.execute(select(jobs).join(renders).where(this)).first()
        if row is None:
            raise no_job(job_id)
        return _job(row)

    def jobs(
        self,
        render_id: str,
        *,
        state: State | None = None,
        which: JobFilter | None = None,
        after: int = -1,
        limit: int | None = None,
    ) -> Iterator[JobView]:
        """Iterate over a render's jobs, or such, in the order of their indexes, read a page at a time."""
        left = limit
        while left is None or left > 0:
            statement = _jobs_page(render_id, state, after, min(_PAGE, left or _PAGE))
            with self._database.ask() as connection:
                if which is not None:
                    statement = which.narrow(statement, render_id=render_id, dialect=connection.dialect.name)
                page = [_job(row) for row in connection.execute(statement)]
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].index
            left = None if left is None else left - len(page)

    def seeds(self, render_id: str, *, limit: int) -> list[int]:
        """List the seeds of a render's first jobs, without their recipes."""
        first = select(jobs.c.seed).where(jobs.c.render_id == render_id).order_by(jobs.c.index).limit(limit)
        with self._database.ask() as connection:
            return [*connection.execute(first).scalars()]

    def final_jobs(self, render_id: str) -> Iterator[tuple[int, State]]:
        """Yield the index and state of each of a render's jobs that is done, failed or cancelled, in no order."""
        statement = select(jobs.c.index, jobs.c.state).where(jobs.c.render_id == render_id, jobs.c.state.in_(FINAL))
        with self._database.read() as connection:
            for row in connection.execution_options(yield_per=_PAGE).execute(statement):
                yield row._mapping["index"], State(row.state)

    def unfinished_models(self, render_id: str) -> list[str]:
        """List the models of a render's jobs that wait or run."""
        left = (jobs.c.render_id == render_id) & jobs.c.state.not_in(FINAL)
        with self._database.read() as connection:
            return [*connection.execute(select(jobs.c.model).where(left).distinct().order_by(jobs.c.model)).scalars()]

    def next_waiting(self, render_id: str) -> JobView | None:
        """Return the job of a render that is claimed next; None if none waits."""
        waiting = (jobs.c.render_id == render_id) & (jobs.c.state == State.QUEUED)
        with self._database.ask() as connection:
            row = connection.execute(
                select(jobs).where(waiting).order_by(jobs.c.priority, jobs.c.round, jobs.c.id).limit(1)
            ).first()
        return None if row is None else _job(row)

    def position(self, job: JobView, *, at_most: int = 10_000) -> int | None:
        """Count the jobs of its model that are ahead of a waiting job, up to `at_most`; None if it does not wait."""
        this = jobs.alias("this")
        place = tuple_(jobs.c.priority, jobs.c.round, jobs.c.id) < tuple_(this.c.priority, this.c.round, this.c.id)
        before = (
            select(jobs.c.id)
            .join(this, (this.c.id == job.row_id) & (this.c.state == State.QUEUED))
            .where(queued(), jobs.c.model == job.spec.model, place)
            .limit(at_most)
            .subquery()
        )
        state = select(jobs.c.state).where(jobs.c.id == job.row_id).scalar_subquery()
        ahead = select(func.count()).select_from(before).scalar_subquery()
        with self._database.ask() as connection:
            found = connection.execute(select(state.label("state"), ahead.label("ahead"))).one()
        return found.ahead if found.state == State.QUEUED else None

    def is_watched(self, render_id: str) -> bool:
        """Return whether the events of a render are recorded."""
        with self._database.ask() as connection:
            return bool(connection.execute(select(renders.c.watched).where(renders.c.id == render_id)).scalar())

    def progress(self, render_id: str) -> dict[int, float]:
        """Return, by index, the share of steps done, 0…1, of a watched render's pictures that are on a device."""
        with self._database.ask() as connection:
            running = connection.execute(
                select(jobs.c.id, jobs.c.index, jobs.c.worker).where(
                    jobs.c.render_id == render_id, jobs.c.state == State.RUNNING
                )
            ).all()
            names = {row.worker for row in running}
            told = connection.execute(select(workers.c.name, workers.c.jobs).where(workers.c.name.in_(names))).all()
        share = read_progress(told)
        return {
            row._mapping["index"]: round(share[row.worker, row.id], 3)
            for row in running
            if (row.worker, row.id) in share
        }

    def batch(self, batch_id: str) -> BatchView:
        """Return a batch. Raises NotFound."""
        with self._database.ask() as connection:
            row = connection.execute(select(batches).where(batches.c.id == batch_id)).first()
        if row is None:
            raise NotFound(f"no batch with id {batch_id!r}")
        return read_batch(row)

    def batches(self, ids: Iterable[str]) -> dict[str, BatchView]:
        """Return those of these batches that exist, by id."""
        found: dict[str, BatchView] = {}
        # A thousand at once: databases take only so many values in a statement.
        left = sorted(set(ids))
        with self._database.read() as connection:
            while left:
                some, left = left[:_PAGE], left[_PAGE:]
                rows = connection.execute(select(batches).where(batches.c.id.in_(some)))
                found |= {row.id: read_batch(row) for row in rows}
        return found

    def labels(self, render_id: str) -> Iterator[Mapping[str, Any] | None]:
        """Iterate over the distinct labels of a render's pictures, in no order; None for those without."""
        statement = select(jobs.c.labels).where(jobs.c.render_id == render_id).distinct()
        with self._database.read() as connection:
            for row in connection.execution_options(yield_per=_PAGE).execute(statement):
                yield None if row.labels is None else json.loads(row.labels)

    def specs(self, batch: BatchView) -> "list[Spec]":
        """Return the specifications of a batch's pictures, in the order in which they were rendered.

        Raises NotFound if some of them were deleted since.
        """
        with self._database.read() as connection:
            rows = connection.execute(select(jobs.c.id, jobs.c.spec).where(jobs.c.id.in_(batch.job_row_ids)))
            by_id = {row.id: _spec(row.spec) for row in rows}
        if missing := len(batch.job_row_ids) - len(by_id):
            raise NotFound(
                f"{missing} of the {len(batch.job_row_ids)} pictures that were rendered together have been deleted"
            )
        return [by_id[row_id] for row_id in batch.job_row_ids]


def no_job(job_id: str) -> NotFound:
    """Return what is said of a job that there is not, or not for whoever asks."""
    return NotFound(f"no job with id {job_id!r}; `farm jobs RENDER` lists them")


def _jobs_page(render_id: str, state: State | None, after: int, limit: int) -> Select[Any]:
    statement = (
        select(jobs).where(jobs.c.render_id == render_id, jobs.c.index > after).order_by(jobs.c.index).limit(limit)
    )
    return statement if state is None else statement.where(jobs.c.state == state)


def _split(name: str) -> tuple[str, int]:
    found = parse_job_id(name)
    if found is None:
        raise NotFound(f"{name!r} is not a job id; expected one such as k7m2p9x4tq8z-000012")
    return found


def select_renders() -> Select[Any]:
    """Select renders as `read_render` reads them."""
    return select(renders, on_device().label("running"))


def read_render(row: Row[Any]) -> RenderView:
    """Return the render in a row of `select_renders`."""
    return RenderView(
        id=row.id,
        owner=row.owner,
        priority=Priority(row.priority),
        total=row.total,
        done=row.done,
        failed=row.failed,
        cancelled=row.cancelled,
        created_at=row.created_at,
        finished_at=row.finished_at,
        held=row.held,
        times=RenderTimes.of(row),
        times_shut=row.window_open is not None and not row.window_open,
        running=row.running,
        name=row.name,
        note=row.note,
        models=tuple((row.models or "").split()),
    )


def _spec(text: str) -> "Spec":
    from storage.spec.picture import read_spec

    return read_spec(text)


def _job(row: Row[Any]) -> JobView:
    return JobView(
        row_id=row.id,
        render_id=row.render_id,
        index=row._mapping["index"],
        spec=_spec(row.spec),
        state=State(row.state),
        attempt=row.attempt,
        worker=row.worker,
        started_at=row.started_at,
        finished_at=row.finished_at,
        batch_id=row.batch_id,
        object=row.object,
        sha256=row.sha256,
        bytes=row.bytes,
        fault=None if row.fault is None else Fault(row.fault),
        error=row.error,
        custom_id=row.custom_id,
        labels=None if row.labels is None else json.loads(row.labels),
        pixels_sha256=row.pixels_sha256,
        remarks=() if row.remarks is None else tuple(json.loads(row.remarks)),
        own_recipe={} if row.own_recipe is None else json.loads(row.own_recipe),
    )
