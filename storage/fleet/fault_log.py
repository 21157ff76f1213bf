"""The log of faults, and the quarantines that follow from them: read, noted and ended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from storage.database.connection import Database, database_now, this_moment, transaction
from storage.database.tables import faults, jobs, quarantines
from storage.rules.faults import Fault
from storage.rules.ids import batch_id, job_id

#: A line or two say what is wrong, however much a library says.
_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True, kw_only=True)
class FaultView:
    """One fault, and the job that it met, if any."""

    #: Seconds since 1970 by the database's clock.
    at: float
    fault: Fault
    worker: str | None
    model: str | None
    #: Its id, `<render>-<index>`.
    job: str | None
    attempt: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class FaultCount:
    fault: Fault
    worker: str | None
    model: str | None
    #: How often, and how many jobs it met.
    times: int
    jobs: int
    last_at: float


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    worker: str
    #: None: the whole device.
    model: str | None
    since: float
    #: Seconds until it ends.
    seconds_left: float
    reason: str


class FaultLog:
    """Reads and writes faults; reads and ends quarantines."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @transaction
    def note_outage(self, connection: Connection, *, fault: Fault, worker: str | None, message: str) -> None:
        """Record that a service was unavailable, which is no job's fault."""
        row = {"fault": fault, "worker": worker, "incident": "", "message": storable(message)}
        connection.execute(insert(faults).values(at=database_now(), **row))

    def latest(
        self, *, limit: int, within_seconds: float = math.inf, model: str | None = None, worker: str | None = None
    ) -> list[FaultView]:
        """List faults, newest first, a row for each job."""
        statement = (
            select(faults, jobs.c.render_id, jobs.c.index)
            .outerjoin(jobs, faults.c.job_id == jobs.c.id)
            .where(faults.c.at > _since(within_seconds))
            .order_by(faults.c.at.desc(), faults.c.id.desc())
            .limit(limit)
        )
        with self.database.read() as connection:
            return [_fault(row) for row in connection.execute(_only(statement, model, worker))]

    def of_job(self, row_id: int, *, limit: int) -> list[FaultView]:
        """List the last faults that a job met, newest first; `row_id`: of its row (`JobView.row_id`)."""
        statement = select(faults, jobs.c.render_id, jobs.c.index).join(jobs, faults.c.job_id == jobs.c.id)
        newest = statement.where(faults.c.job_id == row_id).order_by(faults.c.id.desc()).limit(limit)
        with self.database.read() as connection:
            return [_fault(row) for row in connection.execute(newest)]

    def counts(self, *, within_seconds: float, model: str | None = None, worker: str | None = None) -> list[FaultCount]:
        """Count how often each worker met each class of fault with each model, the most recent first."""
        statement = (
            select(
                faults.c.fault,
                faults.c.worker,
                faults.c.model,
                func.count(faults.c.incident.distinct()).label("incidents"),
                func.count().label("rows"),
                func.count(faults.c.job_id).label("jobs"),
                func.max(faults.c.at).label("last_at"),
            )
            .where(faults.c.at > _since(within_seconds))
            .group_by(faults.c.fault, faults.c.worker, faults.c.model)
            .order_by(func.max(faults.c.at).desc())
        )
        with self.database.read() as connection:
            rows = connection.execute(_only(statement, model, worker)).all()
        return [
            FaultCount(
                fault=Fault(row.fault),
                worker=row.worker,
                model=row.model,
                times=row.incidents if row.jobs else row.rows,
                jobs=row.jobs,
                last_at=row.last_at,
            )
            for row in rows
        ]

    def quarantines(self, *, worker: str | None = None) -> list[Quarantine]:
        """List the quarantines that are in force."""
        left = (quarantines.c.until - database_now()).label("seconds_left")
        statement = select(quarantines, left).where(quarantines.c.until > database_now())
        if worker is not None:
            statement = statement.where(quarantines.c.worker == worker)
        with self.database.ask() as connection:
            rows = connection.execute(statement.order_by(quarantines.c.worker, quarantines.c.model)).all()
        return [
            Quarantine(
                worker=row.worker,
                model=row.model or None,
                since=row.since,
                seconds_left=row.seconds_left,
                reason=row.reason,
            )
            for row in rows
        ]

    def quarantine_of(self, worker: str, model: str) -> Quarantine | None:
        """Find what keeps a worker from a model: a quarantine of its device, or of the model on it."""
        found: Sequence[Quarantine] = self.quarantines(worker=worker)
        return next((quarantine for quarantine in found if quarantine.model in (None, model)), None)

    @transaction
    def end_quarantines(self, connection: Connection, worker: str) -> int:
        """End a worker's quarantines, and forgive the faults that led to them; how many there were."""
        ended = connection.execute(
            update(quarantines)
            .where(quarantines.c.worker == worker, quarantines.c.until > database_now())
            .values(until=database_now())
        )
        return ended.rowcount


def storable(message: str) -> str:
    """Return what is kept of a message: its beginning, without NUL, which libraries quote and PostgreSQL refuses."""
    return message.replace("\0", "")[:_MESSAGE_CHARACTERS]


def note_faults(connection: Connection, met: Sequence[Row[Any]], fault: Fault, message: str) -> None:
    """Write a row for each job, under one incident for each worker and model."""
    if not met:
        return
    now = connection.execute(select(database_now())).scalar_one()
    first: dict[tuple[str, str], str] = {}
    rows = [
        {
            "at": now,
            "fault": fault,
            "worker": row.worker,
            "model": row.model,
            "job_id": row.id,
            "attempt": row.attempt,
            "incident": first.setdefault((row.worker, row.model), batch_id(row.id, row.fence)),
            "message": message,
        }
        for row in met
    ]
    connection.execute(insert(faults), rows)


def _fault(row: Row[Any]) -> FaultView:
    return FaultView(
        at=row.at,
        fault=Fault(row.fault),
        worker=row.worker,
        model=row.model,
        job=None if row.render_id is None else job_id(row.render_id, row._mapping["index"]),
        attempt=row.attempt,
        message=row.message,
    )


def _since(seconds: float) -> Any:
    return this_moment() - seconds if math.isfinite(seconds) else 0


def _only(statement: Any, model: str | None, worker: str | None) -> Any:
    if model is not None:
        statement = statement.where(faults.c.model == model)
    if worker is not None:
        # A machine's name stands for all its devices.
        statement = statement.where(or_(faults.c.worker == worker, faults.c.worker.endswith(f"@{worker}")))
    return statement
