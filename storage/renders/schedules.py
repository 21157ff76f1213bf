"""Schedules and their firings. A firing is a row whose key is the planned time: the first to write it has fired."""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import firings, renders, schedules
from storage.database.upsert import insert_on_conflict
from storage.errors import InvalidInput, NotFound
from storage.jobs.jobs import Jobs
from storage.jobs.submission import Accept, accept_stream
from storage.jobs.values import NewJob, Submission
from storage.rules.states import render_state

#: What a schedule may be called (a regular expression).
NAME = r"^[\w.@-](?:[\w .@-]{0,98}[\w.@-])?$"


class FiringOutcome(StrEnum):
    FIRED = "fired"
    #: The previous render was still unfinished.
    SKIPPED = "skipped"
    #: No scheduler process was running.
    MISSED = "missed"
    #: Its order can no longer be rendered.
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a schedule fires, and how."""

    #: Minute, hour, day of the month, month, day of the week.
    cron: str
    #: A name such as Europe/Paris.
    timezone: str
    #: When its pictures may be rendered, such as 01:00-06:00; None: at any time.
    window: str | None
    #: While its last render is not finished: skip, queue or cancel.
    overlap: str
    #: For times that were missed: none, last or all.
    catch_up: str
    #: fresh, or the same every time.
    seeds: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    id: str
    owner: str
    name: str
    plan: Plan
    order: Mapping[str, Any]
    paused: bool
    created_at: float
    #: Every planned time up to this one has been decided.
    decided_to: float


@dataclass(frozen=True, kw_only=True)
class Firing:
    planned_at: float
    at: float
    outcome: FiringOutcome
    render_id: str | None
    #: The state of its render; None where there is none any more.
    render_state: str | None
    note: str | None


class Schedules:
    """Every method is one transaction."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self.database = database
        self._jobs = jobs

    def now(self) -> float:
        """Return the seconds since 1970 by the database's clock, which all processes share."""
        with self.database.read() as connection:
            return connection.execute(select(database_now())).scalar_one()

    # -- what a person does ------------------------------------------------------------------------------------

    def add(self, *, owner: str, name: str, plan: Plan, order: Mapping[str, Any]) -> Schedule:
        """Add a schedule, due from now on. Raises InvalidInput for a name that is taken or not allowed."""
        if not re.fullmatch(NAME, name):
            raise InvalidInput("name: expected up to 100 letters, digits, spaces, dots, dashes and @")
        schedule_id = secrets.token_hex(6)
        with self.database.write() as connection:
            try:
                connection.execute(
                    insert(schedules).values(
                        id=schedule_id,
                        owner=owner,
                        name=name,
                        **plan.__dict__,
                        order=json.dumps(order, ensure_ascii=False),
                        created_at=database_now(),
                        decided_to=database_now(),
                    )
                )
            except IntegrityError:
                raise InvalidInput(
                    f"name: a schedule named {name!r} already exists; remove it, or choose another name"
                ) from None
        return self.get(name, owner=owner)

    def get(self, name: str, *, owner: str) -> Schedule:
        """Return a schedule. Raises NotFound."""
        with self.database.read() as connection:
            row = connection.execute(
                select(schedules).where(schedules.c.owner == owner, schedules.c.name == name)
            ).first()
        if row is None:
            raise NotFound(f"no schedule named {name[:40]!r}; `farm schedule list` lists them")
        return _schedule(row)

    def all(self, *, owner: str | None = None) -> list[Schedule]:
        """List schedules by owner and name; one owner's, if given."""
        statement = select(schedules).order_by(schedules.c.owner, schedules.c.name)
        if owner is not None:
            statement = statement.where(schedules.c.owner == owner)
        with self.database.read() as connection:
            return [_schedule(row) for row in connection.execute(statement)]

    @transaction
    def pause(self, connection: Connection, schedule: Schedule) -> None:
        """Pause a schedule: times planned meanwhile are neither fired nor caught up on."""
        connection.execute(update(schedules).where(schedules.c.id == schedule.id).values(paused=True))

    @transaction
    def resume(self, connection: Connection, schedule: Schedule) -> None:
        """Resume a schedule from now on. Idempotent."""
        paused = (schedules.c.id == schedule.id) & schedules.c.paused
        connection.execute(update(schedules).where(paused).values(paused=False, decided_to=database_now()))

    @transaction
    def remove(self, connection: Connection, schedule: Schedule) -> None:
        """Delete a schedule with its history; its renders stay."""
        connection.execute(delete(firings).where(firings.c.schedule_id == schedule.id))
        connection.execute(delete(schedules).where(schedules.c.id == schedule.id))

    def history(self, schedule: Schedule, *, limit: int = 20) -> list[Firing]:
        """List the last firings, newest first."""
        statement = (
            select(
                *(firings, renders.c.total, renders.c.done, renders.c.failed, renders.c.cancelled, renders.c.held),
            )
            .outerjoin_from(firings, renders, renders.c.id == firings.c.render_id)
            .where(firings.c.schedule_id == schedule.id)
            .order_by(firings.c.planned_at.desc())
            .limit(limit)
        )
        with self.database.read() as connection:
            return [_firing(row) for row in connection.execute(statement)]

    # -- what the clock does -----------------------------------------------------------------------------------

    def unfinished_renders(self, schedule: Schedule) -> dict[str, bool]:
        """Return this schedule's unfinished renders, each with whether it is held."""
        with self.database.read() as connection:
            return {row.id: row.held for row in connection.execute(_unfinished(schedule))}

    def out_of_step(self, schedule: Schedule, *, window_open: bool) -> list[str]:
        """List the unfinished renders that do not follow the window's present state yet (`note_window`)."""
        statement = _unfinished(schedule).where(firings.c.window_open.is_distinct_from(window_open))
        with self.database.read() as connection:
            return [row.id for row in connection.execute(statement)]

    @transaction
    def note_window(self, connection: Connection, render_id: str, *, window_open: bool) -> None:
        connection.execute(update(firings).where(firings.c.render_id == render_id).values(window_open=window_open))

    @transaction
    def note(
        self,
        connection: Connection,
        schedule: Schedule,
        planned_at: float,
        outcome: FiringOutcome,
        note: str | None = None,
    ) -> bool:
        """Note what became of a planned time without a render; False if it was decided before."""
        return _take(connection, _Due(schedule=schedule, planned_at=planned_at), outcome, note)

    def fire(
        self,
        schedule: Schedule,
        planned_at: float,
        wanted: Iterable[NewJob],
        submission: Submission,
        quanta: Mapping[str, int],
        *,
        by_hand: str | None = None,
    ) -> str | None:
        """Accept a render for a planned time, once, however many processes try; its id, None if the time was decided.

        Args:
            by_hand: a note on why it fires outside its plan; then a paused schedule fires too.

        A process that is killed leaves the firing and its render, or neither. Raises InvalidInput for what cannot be
        rendered; then nothing is decided.
        """
        due = _Due(schedule=schedule, planned_at=planned_at, by_hand=by_hand)
        return accept_stream(self.database, wanted, submission, quanta, within=partial(self._fire, due, submission))

    def _fire(self, due: "_Due", submission: Submission, connection: Connection, accept: Accept) -> str | None:
        schedule, planned_at = due.schedule, due.planned_at
        if not _take(connection, due, FiringOutcome.FIRED, due.by_hand):
            return None
        minds = schedule.plan.overlap != "queue"
        before = [row.id for row in connection.execute(_unfinished(schedule))] if minds else []
        if before and schedule.plan.overlap == "skip":
            said = f"render {before[0]} was not finished"
            _set(connection, schedule, planned_at, outcome=FiringOutcome.SKIPPED, note=said)
            return None
        if schedule.plan.overlap == "cancel":
            for render_id in before:
                self._jobs.cancel_within(connection, render_id)
        render_id = accept()
        _set(connection, schedule, planned_at, render_id=render_id, window_open=not submission.held)
        return render_id


@dataclass(frozen=True, kw_only=True)
class _Due:
    """A time at which a schedule is to fire; `by_hand`: why it fires outside its plan."""

    schedule: Schedule
    planned_at: float
    by_hand: str | None = None


def _take(connection: Connection, due: _Due, outcome: FiringOutcome, note: str | None) -> bool:
    """Take a time; False if it was taken before, or the schedule was removed, or paused and this time is planned."""
    schedule, planned_at, by_hand = due.schedule, due.planned_at, due.by_hand is not None
    # Its row is locked: firings of one schedule follow one another.
    alive = connection.execute(
        select(schedules.c.paused).where(schedules.c.id == schedule.id).with_for_update()
    ).first()
    if alive is None or (alive.paused and not by_hand):
        return False
    taken = connection.execute(
        insert_on_conflict(connection, firings)
        .values(schedule_id=schedule.id, planned_at=planned_at, at=database_now(), outcome=outcome, note=note)
        .on_conflict_do_nothing()
        .returning(firings.c.planned_at)
    ).first()
    if not by_hand:  # which decides no planned time before it
        later = (schedules.c.id == schedule.id) & (schedules.c.decided_to < planned_at)
        connection.execute(update(schedules).where(later).values(decided_to=planned_at))
    return taken is not None


def _set(connection: Connection, schedule: Schedule, planned_at: float, **values: Any) -> None:
    this = (firings.c.schedule_id == schedule.id) & (firings.c.planned_at == planned_at)
    connection.execute(update(firings).where(this).values(**values))


def _unfinished(schedule: Schedule) -> Any:
    return (
        select(renders.c.id, renders.c.held)
        .join(firings, firings.c.render_id == renders.c.id)
        .where(firings.c.schedule_id == schedule.id, renders.c.finished_at.is_(None))
        .order_by(renders.c.created_at)
    )


def _schedule(row: Row[Any]) -> Schedule:
    return Schedule(
        id=row.id,
        owner=row.owner,
        name=row.name,
        plan=Plan(
            cron=row.cron,
            timezone=row.timezone,
            window=row.window,
            overlap=row.overlap,
            catch_up=row.catch_up,
            seeds=row.seeds,
        ),
        order=json.loads(row.order),
        paused=row.paused,
        created_at=row.created_at,
        decided_to=row.decided_to,
    )


def _firing(row: Row[Any]) -> Firing:
    state = None
    if row.total is not None:
        state = render_state(
            total=row.total, done=row.done, failed=row.failed, cancelled=row.cancelled, held=bool(row.held)
        )
    return Firing(
        planned_at=row.planned_at,
        at=row.at,
        outcome=FiringOutcome(row.outcome),
        render_id=row.render_id,
        render_state=state,
        note=row.note,
    )
