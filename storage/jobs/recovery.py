"""Recovery: the effect of a fault on jobs and workers, in one transaction, as `storage.rules.faults` decides it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, select

from storage.database.connection import database_now
from storage.database.tables import jobs, renders
from storage.events.log import EventKind, NewEvent, record_events
from storage.fleet.fault_log import note_faults, storable
from storage.fleet.quarantines import Suspicion, others_serve, quarantine_if_due
from storage.jobs.holding import coming_back
from storage.jobs.orphans import note_orphans
from storage.jobs.transitions import count, lock_renders, transition, unleased
from storage.rules.faults import REACTIONS, Decision, Fault, RetryPolicy, Scope, Situation, decide
from storage.rules.states import State, Transition

#: How long a job that is better off elsewhere is left to the other workers.
_ELSEWHERE_SECONDS = 60.0
#: Jobs per transaction; if a whole farm lost its leases, the next sweeps take the rest.
_AT_ONCE = 2000

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
    connection: Connection,
    rules: RetryPolicy,
    which: ColumnElement[bool],
    fault: Fault,
    message: str,
    *,
    wait: bool = True,
) -> dict[int, State]:
    """Take running jobs from their workers because of a fault; the present states of these jobs, by row id.

    Jobs that were cancelled, taken over or finished before are left alone; without `wait` also those that
    somebody has locked at this moment.
    """
    message = storable(message)
    met = _lock(connection, which, wait=wait)
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
    note_faults(connection, met, fault, message)
    if REACTIONS[fault].against is not Scope.NOTHING:
        for (worker, model), another in others.items():
            suspicion = Suspicion(worker=worker, model=model, reason=f"{fault}: {message}", others=another)
            quarantine_if_due(connection, suspicion, seconds=rules.quarantine_seconds)
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


def _lock(connection: Connection, which: ColumnElement[bool], *, wait: bool) -> Sequence[Row[Any]]:
    which = coming_back(connection, which, at_most=_AT_ONCE, wait=wait)
    found = select(*_MET).where(jobs.c.state == State.RUNNING, which).order_by(jobs.c.id).limit(_AT_ONCE)
    # Waited for: it may be our own lease thread that is just renewing them. The sweep skips what somebody has locked,
    # who may have been stopped in the middle.
    return connection.execute(found.with_for_update(skip_locked=not wait)).all()


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
