"""Holding renders back and releasing them, and the lock under which a job that comes back learns which it is.

A job comes back to the queue when it is given up, swept or retried; whether it then waits or is held follows from its
render. On PostgreSQL two such moves do not see each other: a hold passes over a job that is still running, whose return
does not see the hold. So whoever brings jobs back shares a lock with its like, and whoever holds or releases has it
alone. It is taken before any row is locked, and goes with the transaction. SQLite's writers follow one another anyway.
"""

import zlib
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Integer,
    Select,
    bindparam,
    false,
    func,
    literal_column,
    select,
    text,
    update,
)

from storage.database.tables import jobs, renders
from storage.events.log import EventKind, NewEvent, record_events
from storage.jobs.fair_share import round_served
from storage.jobs.transitions import transition
from storage.rules.states import Priority, State, Transition

#: The first number of these advisory locks of PostgreSQL; the second one is the render's.
_LOCKS = 0x686F6C64
#: Renders share locks, so that a sweep of thousands of them does not fill the server's table of locks.
_DIFFERENT = 1024


# -- the lock --------------------------------------------------------------------------------------------------


def hold_alone(connection: Connection, render_id: str) -> None:
    """Have no job of a render come back, and nobody else hold or release it, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_advisory_xact_lock(:locks, :which)"), {"locks": _LOCKS, "which": _lock_of(render_id)}
        )


def coming_back(
    connection: Connection, which: ColumnElement[bool], *, at_most: int | None = None, wait: bool = True
) -> ColumnElement[bool]:
    """Have nobody hold or release the renders of these running jobs until the transaction ends; which jobs they are.

    Args:
        at_most: jobs, the oldest ones.
        wait: for whoever holds or releases one now; otherwise its jobs are left out.
    """
    if connection.dialect.name != "postgresql":
        return which
    running = select(jobs.c.render_id).where(jobs.c.state == State.RUNNING, which).order_by(jobs.c.id).limit(at_most)
    theirs = set(connection.execute(running).scalars())
    # In the order of numbers, so that two transactions never wait for each other.
    numbers = bindparam("numbers", sorted(map(_lock_of, theirs)), ARRAY(Integer))
    if wait:
        locking = text("SELECT which, pg_advisory_xact_lock_shared(:locks, which) FROM unnest(:numbers) AS which")
    else:
        locking = text(
            "SELECT which FROM unnest(:numbers) AS which WHERE pg_try_advisory_xact_lock_shared(:locks, which)"
        )
    locked = set(connection.execute(locking.bindparams(numbers), {"locks": _LOCKS}).scalars())
    open_to_us = sorted(render_id for render_id in theirs if _lock_of(render_id) in locked)
    return which & jobs.c.render_id.in_(open_to_us) if open_to_us else false()


def _lock_of(render_id: str) -> int:
    return zlib.crc32(render_id.encode()) % _DIFFERENT


# -- the moves -------------------------------------------------------------------------------------------------


def hold(connection: Connection, render_id: str) -> int:
    """Hold a render's waiting jobs; how many."""
    hold_alone(connection, render_id)
    held = _hold_jobs(connection, render_id)
    if _mark(connection, render_id, held=True) or held:
        record_events(connection, [NewEvent(render_id=render_id, kind=EventKind.RENDER_HELD, data={"jobs": held})])
    return held


def release(connection: Connection, render_id: str) -> int:
    """Release a held render into the queue, from the round now being served; how many jobs."""
    hold_alone(connection, render_id)
    released = _release_jobs(connection, render_id)
    if _mark(connection, render_id, held=False) or released:
        record_events(
            connection, [NewEvent(render_id=render_id, kind=EventKind.RENDER_RELEASED, data={"jobs": released})]
        )
    return released


def _hold_jobs(connection: Connection, render_id: str) -> int:
    return connection.execute(transition(Transition.HOLD).where(jobs.c.render_id == render_id)).rowcount


def _release_jobs(connection: Connection, render_id: str) -> int:
    held = (jobs.c.render_id == render_id) & (jobs.c.state == State.HELD)
    parts = connection.execute(
        select(jobs.c.model, jobs.c.priority, jobs.c.owner, func.min(jobs.c.round).label("round"))
        .where(held)
        .group_by(jobs.c.model, jobs.c.priority, jobs.c.owner)
    ).all()
    released = 0
    for part in parts:
        serving = round_served(connection, part.model, Priority(part.priority))
        released += connection.execute(
            transition(Transition.RELEASE)
            .where(held, jobs.c.model == part.model, jobs.c.priority == part.priority)
            # The distances stay as they were dealt; rounds long past would overtake everyone.
            .values(round=jobs.c.round + max(0, serving - part.round))
        ).rowcount
    return released


def _mark(connection: Connection, render_id: str, *, held: bool) -> bool:
    """Mark a render as held or not; whether that changes anything."""
    marked = update(renders).where(renders.c.id == render_id, renders.c.held != held).values(held=held)
    return connection.execute(marked).rowcount > 0


# -- putting right ---------------------------------------------------------------------------------------------


def disagreeing(connection: Connection) -> list[str]:
    """List the renders that are held while jobs of theirs wait, or are not while jobs of theirs are held.

    The cost grows with the renders that are unfinished or held, not with their jobs.
    """
    with_held = _renders_with_held_jobs()
    stuck = select(renders.c.id).where(renders.c.id.in_(with_held), ~renders.c.held)
    unfinished = renders.c.total - renders.c.done - renders.c.failed - renders.c.cancelled
    kept = _count(State.HELD) + _count(State.RUNNING)
    # Written as its index has it.
    loose = select(renders.c.id).where(renders.c.finished_at.is_(None), renders.c.held, unfinished > kept)
    return sorted({*connection.execute(stuck).scalars(), *connection.execute(loose).scalars()})


def put_right(connection: Connection, render_id: str) -> int:
    """Have all waiting jobs of a render follow it; how many did not."""
    hold_alone(connection, render_id)
    held = connection.execute(select(renders.c.held).where(renders.c.id == render_id)).scalar()
    if held is None:
        return 0
    return _hold_jobs(connection, render_id) if held else _release_jobs(connection, render_id)


def _in(state: State) -> ColumnElement[bool]:
    """Match jobs in a state, written out: only then do partial indexes serve."""
    return jobs.c.state == literal_column(f"'{state}'")


def _count(state: State) -> Any:
    theirs = select(func.count()).select_from(jobs).where(_in(state), jobs.c.render_id == renders.c.id)
    return theirs.correlate(renders).scalar_subquery()


def _renders_with_held_jobs() -> Select[Any]:
    """Select them by leaping from one to the next in the index: there may be a million held jobs."""
    first = select(func.min(jobs.c.render_id).label("id")).where(_in(State.HELD))
    found = first.cte("found", recursive=True)
    after = select(func.min(jobs.c.render_id)).where(_in(State.HELD), jobs.c.render_id > found.c.id)
    found = found.union_all(select(after.correlate(found).scalar_subquery()).where(found.c.id.is_not(None)))
    return select(found.c.id).where(found.c.id.is_not(None))
