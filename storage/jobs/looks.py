"""What the scheduler process looks for every other second, mostly in vain: each look is one statement, built once.

To build a statement costs SQLAlchemy more than to send it.
"""

from functools import cache
from typing import Any

from sqlalchemy import Connection, Integer, Select, bindparam, func, select

from storage.database.connection import this_moment
from storage.database.tables import jobs
from storage.jobs.fair_share import queued
from storage.rules.states import Priority, State


def any_lapsed(connection: Connection) -> bool:
    """Return whether a lease of some job has expired."""
    return connection.execute(_lapsed()).first() is not None


def best_waiting(connection: Connection) -> dict[str, Priority]:
    """Return the best priority that waits for each model that has waiting jobs.

    It looks at two entries of an index for each of these models, however many jobs wait.
    """
    return {row.model: Priority(row.priority) for row in connection.execute(_best_waiting())}


def count_waiting(
    connection: Connection, model: str, priorities: tuple[Priority, ...], *, at_most: int
) -> dict[Priority, int]:
    """Count a model's waiting jobs of each of these priorities, each up to `at_most`."""
    if not priorities:
        return {}
    found = connection.execute(_counted(priorities), {"of_model": model, "at_most": at_most}).one()
    return dict(zip(priorities, found, strict=True))


@cache
def _lapsed() -> Select[Any]:
    return select(jobs.c.id).where(jobs.c.state == State.RUNNING, jobs.c.lease_until < this_moment()).limit(1)


@cache
def _best_waiting() -> Select[Any]:
    first: Any = select(select(func.min(jobs.c.model)).where(queued()).scalar_subquery().label("model"))
    found = first.cte("waiting_models", recursive=True)
    following = select(func.min(jobs.c.model)).where(queued(), jobs.c.model > found.c.model)
    found = found.union_all(select(following.scalar_subquery()).where(found.c.model.is_not(None)))
    best = select(func.min(jobs.c.priority)).where(queued(), jobs.c.model == found.c.model)
    return select(found.c.model, best.scalar_subquery().label("priority")).where(found.c.model.is_not(None))


@cache
def _counted(priorities: tuple[Priority, ...]) -> Select[Any]:
    model, at_most = bindparam("of_model", type_=jobs.c.model.type), bindparam("at_most", type_=Integer)
    some = [
        select(jobs.c.id).where(queued(), jobs.c.model == model, jobs.c.priority == one).limit(at_most).subquery()
        for one in priorities
    ]
    return select(*(select(func.count()).select_from(one).scalar_subquery() for one in some))
