"""The workers' own rows: who serves which models on which device, and when each was last heard of."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, func, insert, select, text, update

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import workers
from storage.errors import WorkerNameTaken
from storage.fleet.slots import SlotCounts
from storage.process.run_id import has_ended

#: A worker that was not heard of for so long is shown as silent and no longer counted on.
SILENT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class NewWorker:
    """A worker whose device process has just started."""

    name: str
    host: str
    device: str
    device_name: str
    pid: int
    models: Sequence[str]


class Beat(NamedTuple):
    """The last heartbeat under a worker's name."""

    pid: int
    #: Seconds ago, by the database's clock.
    silent_for: float
    #: Of the run that asks.
    ours: bool


class JobProgress(NamedTuple):
    """How many steps of a job at the device are done, and of how many."""

    job: int
    done: int
    of: int


def read_progress(rows: Iterable[Row[*tuple[Any, ...]]]) -> dict[tuple[str, int], float]:
    """Return, by worker and job, the share of steps done, 0…1, from the `name` and `jobs` of workers' rows."""
    return {(row.name, job): min(1.0, done / of) for row in rows for job, done, of in json.loads(row.jobs) if of}


@dataclass(frozen=True, kw_only=True)
class WorkerActivity:
    """What a worker is doing, in the terms of `WorkerView`."""

    state: str
    model: str | None
    pictures: int
    batch: int = 0
    rate: float = 0.0
    trouble: str | None = None
    threads: int | None = None
    slots: SlotCounts | None = None
    batch_limit: int | None = None
    limit_reason: str | None = None
    loaded: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    name: str
    host: str
    device: str
    device_name: str
    pid: int
    models: Sequence[str]
    #: idle, loading, rendering or quarantined
    state: str
    #: The model that it rendered last.
    model: str | None
    #: How many pictures it is rendering now.
    batch: int
    #: Pictures rendered since it started.
    pictures: int
    #: Pictures a second over the last minute.
    rate: float
    #: What it is waiting for, such as a store that refuses its pictures.
    trouble: str | None
    #: By how many threads it rendered its last batch, on a CPU.
    threads: int | None
    #: None: it has rendered batch by batch only.
    slots: SlotCounts | None
    #: How many pictures a call of its last model may have at most, and why (`LimitReason`).
    batch_limit: int | None
    limit_reason: str | None
    #: The models that it holds in memory, the one used last at the end.
    loaded: Sequence[str]
    started_at: float
    #: Seconds since its last heartbeat, by the database's clock.
    silent_for: float


class Workers:
    """Adds, updates and lists workers.

    What writes does so for one run of `farm-worker`, and leaves rows of other runs alone.
    """

    def __init__(self, database: Database, *, run: str = "") -> None:
        self.database = database
        self._run = run

    @transaction
    def announce(self, connection: Connection, worker: NewWorker) -> None:
        """Add a worker whose device process is up; its row replaces that of its predecessor.

        Raises WorkerNameTaken while a worker of another run has this name and is heard of.
        """
        if connection.dialect.name == "postgresql":  # SQLite's writers follow one another anyway.
            # Two that look at the same moment, and find nobody, would delete each other's rows.
            said = {"name": f"worker:{worker.name}"}
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), said)
        if (other := self._other(connection, worker.name)) is not None:
            raise WorkerNameTaken(
                f"the name {worker.name} is taken by process {other.pid} on {other.host}, heard of "
                f"{other.silent:.0f} s ago; give one of the machines another FARM_WORKER_NAME"
            )
        connection.execute(delete(workers).where(workers.c.name == worker.name))
        connection.execute(
            insert(workers).values(
                **(asdict(worker) | {"models": json.dumps(list(worker.models))}),
                run=self._run,
                state="idle",
                pictures=0,
                started_at=database_now(),
                seen_at=database_now(),
            )
        )

    @transaction
    def set_models(self, connection: Connection, name: str, models: Sequence[str]) -> None:
        """Note which models a worker serves from now on."""
        mine = (workers.c.name == name, workers.c.run == self._run)
        connection.execute(update(workers).where(*mine).values(models=json.dumps(list(models))))

    def last_heard_of(self, name: str) -> float | None:
        """Return when a worker of this name and of another run last beat; None if there is none, or none alive."""
        with self.database.read() as connection:
            other = self._other(connection, name)
        return None if other is None else float(other.seen_at)

    def last_beat(self, name: str) -> Beat | None:
        """Return the last heartbeat under this name, of whichever run; None if there was none."""
        silent = (database_now() - workers.c.seen_at).label("silent")
        with self.database.ask() as connection:
            row = connection.execute(select(workers, silent).where(workers.c.name == name)).first()
        return None if row is None else Beat(pid=row.pid, silent_for=row.silent, ours=row.run == self._run)

    def _other(self, connection: Connection, name: str) -> Row[Any] | None:
        silent = (database_now() - workers.c.seen_at).label("silent")
        theirs = (workers.c.name == name, workers.c.run != self._run)
        found = connection.execute(select(workers, silent).where(*theirs).with_for_update()).first()
        return None if found is None or found.silent > SILENT_SECONDS or has_ended(found.run) else found

    @transaction
    def beat(self, connection: Connection, name: str, activity: WorkerActivity) -> bool:
        """Write a heartbeat, with what the worker is doing; False: it has no row, and must announce itself."""
        written = connection.execute(
            update(workers)
            .where(workers.c.name == name, workers.c.run == self._run)
            .values(
                **(
                    asdict(activity)
                    | {
                        "slots": None if activity.slots is None else activity.slots.written(),
                        "loaded": json.dumps(list(activity.loaded)),
                    }
                ),
                seen_at=database_now(),
            )
        )
        return bool(written.rowcount)

    @transaction
    def progress(self, connection: Connection, *, name: str, jobs: Sequence[JobProgress]) -> None:
        """Record how far the jobs on the device are, for those who watch them."""
        connection.execute(
            update(workers)
            .where(workers.c.name == name, workers.c.run == self._run)
            .values(jobs=json.dumps(list(jobs)), seen_at=database_now())
        )

    @transaction
    def forget(self, connection: Connection, name: str) -> None:
        """Delete the row of a worker that has stopped. Idempotent."""
        connection.execute(delete(workers).where(workers.c.name == name, workers.c.run == self._run))

    def all(self) -> list[WorkerView]:
        with self.database.ask() as connection:
            rows = connection.execute(
                select(workers, (database_now() - workers.c.seen_at).label("silent_for")).order_by(workers.c.name)
            ).all()
        return [
            WorkerView(
                name=row.name,
                host=row.host,
                device=row.device,
                device_name=row.device_name,
                pid=row.pid,
                models=json.loads(row.models),
                state=row.state,
                model=row.model,
                batch=row.batch,
                pictures=row.pictures,
                rate=row.rate,
                trouble=row.trouble,
                threads=row.threads,
                slots=SlotCounts.read(row.slots),
                batch_limit=row.batch_limit,
                limit_reason=row.limit_reason,
                loaded=json.loads(row.loaded),
                started_at=row.started_at,
                silent_for=row.silent_for,
            )
            for row in rows
        ]

    def heard_of(self) -> int:
        """Count the workers that were heard of recently."""
        recently = workers.c.seen_at >= database_now() - SILENT_SECONDS
        with self.database.ask() as connection:
            return int(connection.execute(select(func.count()).select_from(workers).where(recently)).scalar_one())

    def serving(self, model: str, *, within_seconds: float = 30) -> list[WorkerView]:
        """List workers that serve this model and were heard of recently."""
        return [w for w in self.all() if model in w.models and w.silent_for <= within_seconds]


def name_is_of(run: str, name: str) -> ColumnElement[bool]:
    """Return the condition that no worker of another run has this name."""
    return ~exists(select(workers.c.name).where(workers.c.name == name, workers.c.run != run))
