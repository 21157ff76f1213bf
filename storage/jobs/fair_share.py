"""Rounds in which owners share a model, dealt out at submission."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, select

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
        waiting = (queued(), jobs.c.model == model, jobs.c.priority == self._priority)
        theirs = (*waiting, jobs.c.owner == self._owner)
        last = self._scalar(select(func.max(jobs.c.round)).where(*theirs))
        serving = round_served(self._connection, model, self._priority)
        if last is None or last < serving:
            return serving * quantum
        used = self._scalar(select(func.count()).where(*theirs, jobs.c.round == last)) or 0
        return last * quantum + min(used, quantum)

    def _scalar(self, statement: Select[Any]) -> int | None:
        value: int | None = self._connection.execute(statement).scalar()
        return value


def round_served(connection: Connection, model: str, priority: Priority) -> int:
    """Return the round now being served: that of the next job to be claimed, or of the last ones claimed.

    Jobs that were claimed before and came back carry rounds long past: they do not set the pace.
    """
    where = (jobs.c.model == model, jobs.c.priority == priority)
    fresh = (
        select(jobs.c.round)
        .where(queued(), *where, jobs.c.fence == 0)
        .order_by(jobs.c.priority, jobs.c.round, jobs.c.id)
        .limit(1)
    )
    running = select(func.max(jobs.c.round)).where(jobs.c.state == literal_column(f"'{State.RUNNING}'"), *where)
    returned = select(func.min(jobs.c.round)).where(queued(), *where)
    for statement in (fresh, running, returned):
        round_: int | None = connection.execute(statement).scalar()
        if round_ is not None:
            return round_
    return 0
