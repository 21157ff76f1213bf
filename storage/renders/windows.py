"""Which renders follow a window, a schedule's or their own, and whether they already do."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select, update

from storage.database.connection import Database, transaction
from storage.database.schedule_tables import firings
from storage.database.tables import renders
from storage.renders.firings import LONG_PICTURES
from storage.renders.schedules import Schedule, unfinished
from storage.rules.render_times import RenderTimes


@dataclass(frozen=True, kw_only=True)
class TimedRender:
    """An unfinished render with times of its own."""

    id: str
    owner: str
    times: RenderTimes
    #: Whether it may be rendered, as it last followed that.
    window_open: bool


class Windows:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def out_of_step(self, schedule: Schedule, *, window_open: bool, long: bool) -> list[str]:
        """List a schedule's unfinished renders that do not follow the window's present state yet (`note`).

        Args:
            long: the long ones, or the others.
        """
        statement = unfinished(schedule).where(
            firings.c.window_open.is_distinct_from(window_open), _is_long() if long else ~_is_long()
        )
        with self.database.read() as connection:
            return [row.id for row in connection.execute(statement)]

    @transaction
    def note(self, connection: Connection, render_id: str, *, window_open: bool) -> None:
        """Note that a render of a schedule follows the window. Idempotent."""
        connection.execute(update(firings).where(firings.c.render_id == render_id).values(window_open=window_open))

    def timed(self, *, long: bool | None = None, owner: str | None = None) -> list[TimedRender]:
        """List the unfinished renders with times of their own, oldest first.

        Args:
            long: only the long ones, or only the others.
            owner: only theirs.
        """
        statement = (
            select(renders)
            .where(renders.c.timezone.is_not(None), renders.c.finished_at.is_(None), ~renders.c.purging)
            .order_by(renders.c.created_at, renders.c.id)
        )
        if long is not None:
            statement = statement.where(_is_long() if long else ~_is_long())
        if owner is not None:
            statement = statement.where(renders.c.owner == owner)
        with self.database.read() as connection:
            return [
                TimedRender(id=row.id, owner=row.owner, times=times, window_open=bool(row.window_open))
                for row in connection.execute(statement)
                if (times := RenderTimes.of(row)) is not None
            ]

    @transaction
    def note_timed(self, connection: Connection, render_id: str, *, window_open: bool) -> None:
        """Note that a render follows its own times. Idempotent."""
        connection.execute(update(renders).where(renders.c.id == render_id).values(window_open=window_open))


def _is_long() -> ColumnElement[bool]:
    return renders.c.total > LONG_PICTURES
