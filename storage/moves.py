"""The parts that every move of a job is made of: the guarded UPDATE, the fence, and the counters that move with it."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Update, case, tuple_, update

from storage.claims import Claimed
from storage.database import database_now
from storage.states import MOVES, Event
from storage.tables import jobs, renders


def move(event: Event) -> Update:
    """The guarded UPDATE of a move; the caller says which jobs."""
    before, after = MOVES[event]
    return update(jobs).where(jobs.c.state.in_(sorted(before))).values(state=after)


def fenced(held: Iterable[Claimed]) -> ColumnElement[bool]:
    """These jobs, as far as nobody claimed or cancelled them since."""
    return tuple_(jobs.c.id, jobs.c.fence).in_([(job.id, job.fence) for job in held])


def released(*, finished: bool = False) -> dict[str, Any]:
    """What a job that leaves its worker is set to."""
    return {"lease_until": None, "finished_at": database_now() if finished else None}


def count(connection: Connection, counter: Column[int], by_render: Mapping[str, int]) -> None:
    """Add to a counter of renders, and note the end of those that are finished by it.

    In the order of ids, so that two transactions never wait for each other. Jobs are locked before renders,
    everywhere, for the same reason.
    """
    finished = renders.c.done + renders.c.failed + renders.c.cancelled
    for render_id, n in sorted(by_render.items()):
        if n:
            connection.execute(
                update(renders)
                .where(renders.c.id == render_id)
                .values(
                    {
                        counter: counter + n,
                        renders.c.finished_at: case((finished + n >= renders.c.total, database_now())),
                    }
                )
            )
