"""Which renders follow a window, a schedule's or their own, and whether they already do."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, or_, select, update

from storage.database.connection import Database, transaction
from storage.database.schedule_tables import firings, schedules
from storage.database.tables import renders
from storage.renders.firings import LONG_PICTURES
from storage.renders.schedules import Schedule, moment, schedule_of, unfinished
from storage.rules.render_times import RenderTimes


@dataclass(frozen=True, kw_only=True)
class TimedRender:
    """An unfinished render with times of its own."""

    id: str
    owner: str
    times: RenderTimes
    #: Whether it may be rendered, as it last followed that.
    window_open: bool


@dataclass(frozen=True, kw_only=True)
class Look:
    """What may have to follow a window, as it was at one moment."""

    #: In seconds since 1970, by the database's clock.
    now: float
    #: Those that have a window, or were edited and may have had one.
    schedules: list[Schedule]
    timed: list[TimedRender]


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

    def look(self, *, long: bool) -> "Look":
        """Return everything that may have to follow a window now.

        Args:
            long: with the long ones among the timed renders, or the others.
        """
        with self.database.ask() as connection:
            return Look(
                now=connection.execute(moment()).scalar_one(),
                schedules=[schedule_of(row) for row in connection.execute(_windowed())],
                timed=_timed_renders(connection.execute(_timed(long))),
            )

    def timed(self, *, owner: str | None = None) -> list[TimedRender]:
        """List the unfinished renders with times of their own, oldest first; one owner's, if given."""
        statement = _timed(None)
        if owner is not None:
            statement = statement.where(renders.c.owner == owner)
        with self.database.read() as connection:
            return _timed_renders(connection.execute(statement))

    @transaction
    def note_timed(self, connection: Connection, render_id: str, *, window_open: bool) -> None:
        """Note that a render follows its own times. Idempotent."""
        connection.execute(update(renders).where(renders.c.id == render_id).values(window_open=window_open))


# Built once, for they are asked every other second.


@cache
def _windowed() -> Select[Any]:
    # What any other schedule ever fired is not held.
    some = or_(schedules.c.window.is_not(None), schedules.c.version > 0)
    return select(schedules).where(some).order_by(schedules.c.owner, schedules.c.name)


@cache
def _timed(long: bool | None) -> Select[Any]:
    unfinished_ones = (renders.c.timezone.is_not(None), renders.c.finished_at.is_(None), ~renders.c.purging)
    found = select(renders).where(*unfinished_ones).order_by(renders.c.created_at, renders.c.id)
    return found if long is None else found.where(_is_long() if long else ~_is_long())


def _timed_renders(rows: Iterable[Row[Any]]) -> list[TimedRender]:
    return [
        TimedRender(id=row.id, owner=row.owner, times=times, window_open=bool(row.window_open))
        for row in rows
        if (times := RenderTimes.of(row)) is not None
    ]


def _is_long() -> ColumnElement[bool]:
    return renders.c.total > LONG_PICTURES
