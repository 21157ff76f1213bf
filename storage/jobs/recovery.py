"""What a fault does to jobs and workers, in one transaction: `storage.rules.faults` decides, this carries it out."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, and_, exists, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.database.connection import database_now
from storage.database.tables import batches, faults, jobs, quarantines, renders, workers
from storage.events.log import EventKind, NewEvent, record_events
from storage.jobs.orphans import note_orphans
from storage.jobs.transitions import count, lock_renders, transition, unleased
from storage.rules.faults import (
    REACTIONS,
    WITHIN_SECONDS,
    Decision,
    Fault,
    Incident,
    RetryPolicy,
    Scope,
    Situation,
    decide,
    quarantine,
)
from storage.rules.states import State, Transition

#: A job that is better off elsewhere is left to the other workers for so long.
_ELSEWHERE_SECONDS = 60.0
#: A worker that was heard of so lately is there.
_ALIVE_SECONDS = 30.0
#: Jobs in one transaction; of a whole farm that lost its leases, the sweep takes the rest in its next rounds.
_AT_ONCE = 2000
#: What is wrong with a job is said in a line or two, whatever a library had to say.
MESSAGE_CHARACTERS = 1000

_MET: tuple[Column[Any], ...] = (
    jobs.c.id,
    jobs.c.render_id,
    jobs.c.index,
    jobs.c.watched,
    jobs.c.model,
    jobs.c.worker,
    jobs.c.fence,
    jobs.c.attempt,
    jobs.c.suspect,
)


def recover(
    connection: Connection, rules: RetryPolicy, which: ColumnElement[bool], fault: Fault, message: str
) -> dict[int, State]:
    """Take running jobs from their workers because of a fault; the states that these jobs are in now, by row id.

    Jobs that were cancelled, taken over or finished before are left alone.
    """
    message = message[:MESSAGE_CHARACTERS]
    met = connection.execute(
        select(*_MET)
        .where(jobs.c.state == State.RUNNING, which)
        .order_by(jobs.c.id)
        .limit(_AT_ONCE)
        # Waited for, not skipped: it may be our own lease thread that is just renewing them.
        .with_for_update()
    ).all()
    others = {
        (worker, model): others_serve(connection, worker, model)
        for worker, model in {(row.worker, row.model) for row in met}
    }
    decided: defaultdict[Decision, list[Row[Any]]] = defaultdict(list)
    for row in met:
        now = Situation(
            attempt=row.attempt,
            max_attempts=rules.max_attempts,
            alone=row.suspect,
            others=others[row.worker, row.model],
        )
        decided[decide(fault, now)].append(row)
    after: dict[int, State] = {}
    for decision, rows in decided.items():
        said = f"{message}, in attempt {rules.max_attempts}" if decision.spent else message
        after |= _carry_out(connection, decision, rows, fault, said)
    _note(connection, met, fault, message)
    for (worker, model), another in others.items():
        _leave_out(connection, rules, worker, model, fault, message, others=another)
    if any(row.watched for row in met):
        lock_renders(connection, [row.render_id for row in met])
    record_events(connection, [_told(row, after[row.id], fault, message) for row in met if row.watched])
    failed = [row for row in met if after[row.id] is State.FAILED]
    # Of an earlier attempt, or of this one if the process did not live to tell.
    stored = [row.id for row in failed if row.fence > 1 or REACTIONS[fault].alone]
    if stored:
        note_orphans(connection, jobs.c.id.in_(stored), after_seconds=rules.lease_seconds)
    count(connection, renders.c.failed, Counter(row.render_id for row in failed))
    return after


def _told(row: Row[Any], state: State, fault: Fault, message: str) -> NewEvent:
    kind = EventKind.JOB_FAILED if state is State.FAILED else EventKind.JOB_QUEUED
    data = {"fault": fault, "error": message, "attempt": row.attempt}
    return NewEvent(render_id=row.render_id, kind=kind, index=row._mapping["index"], data=data)


def _carry_out(
    connection: Connection, decision: Decision, rows: Sequence[Row[Any]], fault: Fault, message: str
) -> dict[int, State]:
    finished = decision.event is Transition.FAIL
    moved = connection.execute(
        transition(decision.event)
        .where(jobs.c.id.in_([row.id for row in rows]))
        .values(
            attempt=jobs.c.attempt - (0 if decision.burns else 1),
            suspect=decision.alone,
            elsewhere_until=database_now() + _ELSEWHERE_SECONDS if decision.elsewhere else None,
            fault=fault,
            error=message,
            **unleased(finished=finished),
        )
        .returning(jobs.c.id, jobs.c.state)
    )
    return {row.id: State(row.state) for row in moved}


def _note(connection: Connection, met: Sequence[Row[Any]], fault: Fault, message: str) -> None:
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
            "incident": first.setdefault((row.worker, row.model), f"{row.id}.{row.fence}"),
            "message": message,
        }
        for row in met
    ]
    connection.execute(insert(faults), rows)


# -- workers ---------------------------------------------------------------------------------------------------


def left_out(worker: Any, model: Any) -> ColumnElement[bool]:
    """Whether a worker is now in quarantine, for this model or altogether."""
    return exists().where(
        quarantines.c.worker == worker,
        or_(quarantines.c.model == "", quarantines.c.model == model),
        quarantines.c.until > database_now(),
    )


def others_serve(connection: Connection, worker: str | None, model: str) -> bool:
    """Whether another worker serves this model, was heard of lately and is not in quarantine."""
    found = connection.execute(
        select(workers.c.models).where(
            workers.c.name != (worker or ""),
            workers.c.seen_at > database_now() - _ALIVE_SECONDS,
            ~left_out(workers.c.name, model),
        )
    ).scalars()
    return any(model in json.loads(served) for served in found)


def _leave_out(
    connection: Connection, rules: RetryPolicy, worker: str, model: str, fault: Fault, message: str, *, others: bool
) -> None:
    if REACTIONS[fault].against is Scope.NOTHING:
        return
    scope = quarantine(_incidents(connection, worker), model=model, others=others)
    if scope is not Scope.NOTHING:
        _write_quarantine(
            connection,
            {
                "worker": worker,
                "model": model if scope is Scope.MODEL else "",
                "since": database_now(),
                "until": database_now() + rules.quarantine_seconds,
                "reason": f"{fault}: {message}",
            },
        )


def _write_quarantine(connection: Connection, row: Mapping[str, Any]) -> None:
    statement = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(quarantines).values(**row)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[quarantines.c.worker, quarantines.c.model],
            set_={name: statement.excluded[name] for name in ("since", "until", "reason")},
        )
    )


def _incidents(connection: Connection, worker: str) -> list[Incident]:
    """A worker's faults of late, newest first; those before its last release are forgiven."""
    forgiven = select(func.max(quarantines.c.until)).where(
        quarantines.c.worker == worker, quarantines.c.until <= database_now()
    )
    rows = connection.execute(
        select(faults.c.incident, faults.c.fault, faults.c.model, faults.c.job_id, faults.c.at)
        .where(
            faults.c.worker == worker,
            faults.c.at > database_now() - WITHIN_SECONDS,
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
