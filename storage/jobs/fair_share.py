"""Rounds in which owners share a model, dealt out at submission."""

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, func, literal_column, select

from storage.database.tables import jobs
from storage.rules.states import Priority, State


def queued() -> ColumnElement[bool]:
    """Match jobs that wait. Written out, not bound: only then do the partial indexes on state = 'queued' serve."""
    return jobs.c.state == literal_column(f"'{State.QUEUED}'")


class RoundDealer:
    """Deals rounds: an owner's jobs, a quantum a round, from the round now being served or where the owner's end.

    So a render of a million and another owner's render of ten advance side by side, and an owner's own renders
    follow one another.
    """

    def __init__(self, connection: Connection, *, owner: str, priority: Priority, quanta: Mapping[str, int]) -> None:
        self._connection = connection
        self._owner = owner
        self._priority = priority
        self._quanta = quanta
        self._dealt: dict[str, int] = {}

    def round(self, model: str) -> int:
        """Deal the round of this owner's next job of this model."""
        quantum = self._quanta[model]
        if model not in self._dealt:
            self._dealt[model] = self.first(model)
        dealt = self._dealt[model]
        self._dealt[model] += 1
        return dealt // quantum

    def first(self, model: str) -> int:
        """Find where dealing starts, counted in jobs: round × quantum + the owner's jobs in that round."""
        quantum = self._quanta[model]
        theirs = (queued(), jobs.c.model == model, jobs.c.priority == self._priority, jobs.c.owner == self._owner)
        last = select(func.max(jobs.c.round)).where(*theirs).correlate(None).scalar_subquery()
        used = select(func.count()).where(*theirs, jobs.c.round == last).scalar_subquery()
        # At once: whoever submits waits for each round trip.
        found = self._connection.execute(select(last, _served(model, self._priority), used)).one()
        their_last, serving, in_last = found
        if their_last is None or their_last < serving:
            return int(serving) * quantum
        return int(their_last) * quantum + min(int(in_last), quantum)


def round_served(connection: Connection, model: str, priority: Priority) -> int:
    """Return the round now being served: that of the next job to be claimed, or of the last ones claimed.

    Jobs that were claimed before and came back carry rounds long past: they do not set the pace.
    """
    return int(connection.execute(select(_served(model, priority))).scalar_one())


def _served(model: str, priority: Priority) -> ColumnElement[int]:
    where = (jobs.c.model == model, jobs.c.priority == priority)
    fresh = (
        select(jobs.c.round)
        .where(queued(), *where, jobs.c.fence == 0)
        .order_by(jobs.c.priority, jobs.c.round, jobs.c.id)
        .limit(1)
    )
    running = select(func.max(jobs.c.round)).where(jobs.c.state == literal_column(f"'{State.RUNNING}'"), *where)
    returned = select(func.min(jobs.c.round)).where(queued(), *where)
    # Databases look for the next of these only where there is none of the last.
    return func.coalesce(*(one.scalar_subquery() for one in (fresh, running, returned)), 0)
