"""Quarantines: which workers get no jobs, of one model or at all, because of their recent faults."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from storage.database.connection import database_now, this_moment
from storage.database.tables import batches, faults, quarantines, workers
from storage.database.upsert import insert_on_conflict
from storage.fleet.workers import SILENT_SECONDS
from storage.rules.faults import REACTIONS, WITHIN_SECONDS, Fault, Incident, Scope, quarantine


def quarantined(worker: Any, model: Any) -> ColumnElement[bool]:
    """Tell (in SQL) whether a worker is in quarantine now, for this model or altogether."""
    return exists().where(
        quarantines.c.worker == worker,
        or_(quarantines.c.model == "", quarantines.c.model == model),
        quarantines.c.until > database_now(),
    )


def others_serve(connection: Connection, worker: str | None, model: str) -> bool:
    """Tell whether another live worker, not in quarantine, serves this model."""
    found = connection.execute(
        select(workers.c.models).where(
            workers.c.name != (worker or ""),
            workers.c.seen_at > database_now() - SILENT_SECONDS,
            ~quarantined(workers.c.name, model),
        )
    ).scalars()
    return any(model in json.loads(served) for served in found)


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A worker that has just had a fault with a model, and why."""

    worker: str
    model: str
    reason: str
    #: Whether another worker serves the model.
    others: bool


def quarantine_if_due(connection: Connection, suspicion: Suspicion, *, seconds: float) -> None:
    """Quarantine a worker, or a model on it, for so long, if its recent faults call for it."""
    incidents = _incidents(connection, suspicion.worker)
    scope = quarantine(incidents, model=suspicion.model, others=suspicion.others)
    if scope is not Scope.NOTHING:
        _write_quarantine(
            connection,
            {
                "worker": suspicion.worker,
                "model": suspicion.model if scope is Scope.MODEL else "",
                "since": database_now(),
                "until": database_now() + seconds,
                "reason": suspicion.reason,
            },
        )


def _write_quarantine(connection: Connection, row: Mapping[str, Any]) -> None:
    statement = insert_on_conflict(connection, quarantines).values(**row)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[quarantines.c.worker, quarantines.c.model],
            set_={name: statement.excluded[name] for name in ("since", "until", "reason")},
        )
    )


def _incidents(connection: Connection, worker: str) -> list[Incident]:
    """Read a worker's recent faults, newest first; those before its last release are forgiven."""
    forgiven = select(func.max(quarantines.c.until)).where(
        quarantines.c.worker == worker, quarantines.c.until <= database_now()
    )
    rows = connection.execute(
        select(faults.c.incident, faults.c.fault, faults.c.model, faults.c.job_id, faults.c.at)
        .where(
            faults.c.worker == worker,
            faults.c.at > this_moment() - WITHIN_SECONDS,
            faults.c.at > func.coalesce(forgiven.scalar_subquery(), 0),
        )
        .order_by(faults.c.id.desc())
    ).all()
    successes = {model: _last_success(connection, worker, model) for model in {None, *(row.model for row in rows)}}
    found: dict[str, Incident] = {}
    for row in rows:
        fault = Fault(row.fault)
        of = row.model if REACTIONS[fault].against is Scope.MODEL else None
        incident = found.setdefault(
            row.incident,
            Incident(fault=fault, model=row.model, jobs=frozenset(), overcome=successes[of] > row.at),
        )
        found[row.incident] = replace(incident, jobs=incident.jobs | {row.job_id})
    return list(found.values())


def _last_success(connection: Connection, worker: str, model: str | None) -> float:
    condition = batches.c.worker == worker
    if model is not None:
        condition = and_(condition, batches.c.model == model)
    return connection.execute(select(func.max(batches.c.finished_at)).where(condition)).scalar() or 0.0
