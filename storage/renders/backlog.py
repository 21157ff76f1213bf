"""What is left to render, by owner, priority and models: from the renders' own counters, not from their jobs."""

from dataclasses import dataclass

from sqlalchemy import func, select

from storage.database.connection import Database, database_now
from storage.database.tables import renders
from storage.rules.states import Priority


@dataclass(frozen=True, kw_only=True)
class LeftToRender:
    """Pictures of an owner's renders of one priority and of the same models that wait or run."""

    owner: str
    priority: Priority
    models: tuple[str, ...]
    held: bool
    renders: int
    pictures: int
    #: Since the oldest of them was submitted.
    oldest_seconds: float


class Backlog:
    """Sums over the renders that are unfinished, which an index finds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def left(self, *, owner: str | None = None) -> list[LeftToRender]:
        """Return what is left of every owner's renders, or of one owner's; the most urgent first."""
        left = renders.c.total - renders.c.done - renders.c.failed - renders.c.cancelled
        groups = (renders.c.priority, renders.c.owner, renders.c.models, renders.c.held)
        statement = (
            select(
                *groups,
                func.count().label("n"),
                func.sum(left).label("pictures"),
                (database_now() - func.min(renders.c.created_at)).label("oldest"),
            )
            .where(renders.c.finished_at.is_(None), ~renders.c.purging, left > 0)
            .group_by(*groups)
            .order_by(*groups)
        )
        if owner is not None:
            statement = statement.where(renders.c.owner == owner)
        with self._database.ask() as connection:
            rows = connection.execute(statement).all()
        return [
            LeftToRender(
                owner=row.owner,
                priority=Priority(row.priority),
                models=tuple((row.models or "").split()),
                held=row.held,
                renders=row.n,
                pictures=int(row.pictures),
                oldest_seconds=max(0.0, row.oldest),
            )
            for row in rows
        ]
