"""What every move of a job is made of: the guarded UPDATE, the fence, and the counters that move with it."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Update,
    bindparam,
    case,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from storage.database.connection import database_now
from storage.database.tables import jobs, renders
from storage.events.log import EventKind, NewEvent, record_events
from storage.jobs.values import ClaimedJob
from storage.rules.states import TRANSITIONS, State, Transition, render_state


def transition(event: Transition, *, by_id: bool = False) -> Update:
    """Build the guarded UPDATE of a move, for the caller to say which jobs. What returns to a held render is held.

    Args:
        by_id: the caller names their ids: the primary key is read, and not all jobs of that state, of which PostgreSQL
            may believe that there are few.
    """
    before, after = TRANSITIONS[event]
    state: ColumnElement[str] | str = after
    if after is State.QUEUED and event is not Transition.RELEASE:
        of_held = select(renders.c.held).where(renders.c.id == jobs.c.render_id).scalar_subquery()
        state = case((of_held, str(State.HELD)), else_=str(State.QUEUED))
    # No partial index serves an expression.
    now = func.coalesce(jobs.c.state, "") if by_id else jobs.c.state
    return update(jobs).where(now.in_(sorted(before))).values(state=state)


def fenced(claimed: Iterable[ClaimedJob]) -> ColumnElement[bool]:
    """Match these jobs, except those that were claimed or cancelled since."""
    return tuple_(jobs.c.id, jobs.c.fence).in_([(job.id, job.fence) for job in claimed])


def unleased(*, finished: bool = False) -> dict[str, Any]:
    """Return the columns of a job that leaves its worker."""
    return {"lease_until": None, "finished_at": database_now() if finished else None}


def lock_renders(connection: Connection, render_ids: Iterable[str]) -> None:
    """Lock all renders that a transaction is going to write to, in the order of ids, where it does so in several steps.

    So two transactions never wait for each other. SQLite's writers follow one another anyway.
    """
    connection.execute(
        select(renders.c.id).where(renders.c.id.in_(sorted(set(render_ids)))).order_by(renders.c.id).with_for_update()
    )


def count(
    connection: Connection,
    counter: Column[int],
    by_render: Mapping[str, int],
    *,
    stored: Mapping[str, int] | None = None,
) -> None:
    """Add to a counter of renders, and note the end of those that are finished by it.

    In the order of ids, so that two transactions never wait for each other. Jobs are locked before renders,
    everywhere, for the same reason.

    Args:
        stored: of pictures that are done, the bytes of their files by render.
    """
    over: list[NewEvent] = []
    for render_id, n in sorted(by_render.items()):
        if n:
            told = {} if stored is None else {"stored": stored[render_id]}
            row = connection.execute(_counting(counter.name), {"of_render": render_id, "n": n, **told}).one()
            if row.watched and row.finished_at is not None:
                counters = {name: getattr(row, name) for name in ("total", "done", "failed", "cancelled")}
                data = {"state": render_state(**counters), **counters, "finished_at": row.finished_at}
                over.append(NewEvent(render_id=render_id, kind=EventKind.RENDER_FINISHED, data=data))
    record_events(connection, over)


@cache
def _counting(counter: str) -> ReturningUpdate[Any]:
    n = bindparam("n", type_=Integer)
    finished = renders.c.done + renders.c.failed + renders.c.cancelled
    stored: dict[Any, Any] = {}
    if counter == renders.c.done.name:
        now = database_now()
        stored = {
            renders.c.stored_bytes: renders.c.stored_bytes + bindparam("stored", type_=BigInteger),
            renders.c.first_done_at: func.coalesce(renders.c.first_done_at, now),
            renders.c.last_done_at: now,
        }
    return (
        update(renders)
        .where(renders.c.id == bindparam("of_render"))
        .values(
            {
                renders.c[counter]: renders.c[counter] + n,
                renders.c.finished_at: case((finished + n >= renders.c.total, database_now())),
                **stored,
            }
        )
        .returning(
            *(renders.c.watched, renders.c.finished_at, renders.c.total),
            *(renders.c.done, renders.c.failed, renders.c.cancelled),
        )
    )


def of_watched(
    kind: EventKind, claimed: Iterable[ClaimedJob], data: Callable[[ClaimedJob], Mapping[str, Any]]
) -> list[NewEvent]:
    """Make an event for each of these jobs that is watched."""
    return [
        NewEvent(render_id=job.render_id, kind=kind, index=job.index, data=data(job)) for job in claimed if job.watched
    ]
