"""Schedules, as people make and read them. What the clock does with them: `storage.renders.firings`."""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from storage.database.connection import Database, database_now, transaction
from storage.database.schedule_tables import firings, schedules
from storage.database.tables import renders
from storage.database.upsert import insert_on_conflict
from storage.errors import InvalidInput, NotFound
from storage.renders.filters import on_device
from storage.rules.states import RenderState, render_state

#: Why planned times did not fire.
PAUSED = "the schedule was paused"
EDITED = "the schedule was edited before this was accepted, and has other times now"
#: What a schedule may be called (a regular expression).
NAME = r"^[\w.@-](?:[\w .@-]{0,98}[\w.@-])?$"


class FiringOutcome(StrEnum):
    """What became of a planned time."""

    #: Due, and not accepted yet: it waits for its turn, or is being accepted.
    TAKEN = "taken"
    FIRED = "fired"
    #: By one of its schedule's rules: the note says which.
    SKIPPED = "skipped"
    #: No scheduler process was running when it came due.
    MISSED = "missed"
    #: Its order can no longer be rendered.
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class FiringLimits:
    """How much a schedule may have rendered; None: any amount. A firing that is more does not happen."""

    #: Of one firing.
    pictures: int | None = None
    device_minutes: float | None = None
    #: Of all firings that are planned for one day of the schedule's zone.
    pictures_per_day: int | None = None
    device_minutes_per_day: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a schedule fires, and how."""

    #: Minute, hour, day of the month, month, day of the week; None: it fires once.
    cron: str | None
    #: When it fires, in seconds since 1970, if that is once.
    at: float | None = None
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
    limits: FiringLimits = FiringLimits()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    id: str
    owner: str
    name: str
    plan: Plan
    #: What to render; empty if its row cannot be read.
    order: Mapping[str, Any]
    paused: bool
    created_at: float
    #: Every planned time up to this one has been decided.
    decided_to: float
    #: How often it was edited.
    version: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has fired once, as it was to, or missed that: no time will come."""
        return self.plan.at is not None and self.decided_to >= self.plan.at


@dataclass(frozen=True, kw_only=True)
class Firing:
    planned_at: float
    at: float
    outcome: FiringOutcome
    render_id: str | None
    #: The state of its render; None where there is none any more.
    render_state: RenderState | None
    note: str | None


class Schedules:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def now(self) -> float:
        """Return the seconds since 1970 by the database's clock, which all processes share."""
        with self.database.ask() as connection:
            return connection.execute(moment()).scalar_one()

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
                        **columns_of(plan),
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
        return schedule_of(row)

    def all(self, *, owner: str | None = None) -> list[Schedule]:
        """List schedules by owner and name; one owner's, if given."""
        statement = _all()
        if owner is not None:
            statement = statement.where(schedules.c.owner == owner)
        with self.database.read() as connection:
            return [schedule_of(row) for row in connection.execute(statement)]

    def at_present(self) -> tuple[float, list[Schedule]]:
        """Return what `now` and `all` do, in one transaction: for the clock, which asks every other second."""
        with self.database.ask() as connection:
            now = connection.execute(moment()).scalar_one()
            return now, [schedule_of(row) for row in connection.execute(_all())]

    @transaction
    def pause(self, connection: Connection, schedule: Schedule) -> None:
        """Pause a schedule: times planned meanwhile are neither fired nor caught up on."""
        connection.execute(update(schedules).where(schedules.c.id == schedule.id).values(paused=True))

    @transaction
    def resume(self, connection: Connection, schedule: Schedule, undecided: Iterable[float] = ()) -> None:
        """Resume a schedule from now on. Idempotent.

        Args:
            undecided: planned times that went by while it was paused, and that no scheduler process has noted.
        """
        paused = (schedules.c.id == schedule.id) & schedules.c.paused
        if connection.execute(update(schedules).where(paused).values(paused=False, decided_to=database_now())).rowcount:
            for planned_at in undecided:
                note_skipped(connection, schedule.id, planned_at, PAUSED)

    @transaction
    def edit(
        self,
        connection: Connection,
        before: Schedule,
        *,
        plan: Plan,
        order: Mapping[str, Any],
        undecided: Iterable[float] = (),
    ) -> None:
        """Change a schedule, before whatever it fires next or after what it fired last: never within a firing.

        What is due and not accepted yet is accepted as the schedule now is; with other times, it is not any more, and
        history says so. Its times are those that come from now on.

        Args:
            before: as it was read; nothing is changed if somebody else has edited it since.
            undecided: times that were planned before, went by, and that no scheduler process has noted.

        Raises NotFound, InvalidInput.
        """
        # Locked first, as by whoever accepts: an edit waits for that, or that finds the edit.
        locked = select(schedules.c.version).where(schedules.c.id == before.id).with_for_update()
        version = connection.execute(locked).scalar()
        if version is None:
            raise NotFound(f"no schedule named {before.name[:40]!r}; it was removed meanwhile")
        if version != before.version:
            raise InvalidInput(
                f"schedule {before.name} was edited by somebody else at the same time; look at it "
                f"(`farm schedule show`), and edit it again"
            )
        values = columns_of(plan) | {"order": json.dumps(order, ensure_ascii=False), "version": version + 1}
        due = (firings.c.schedule_id == before.id) & (firings.c.outcome == FiringOutcome.TAKEN)
        if _times_of(plan) != _times_of(before.plan):
            values["decided_to"] = database_now()
            given_up = {"outcome": FiringOutcome.SKIPPED, "note": EDITED, "at": database_now(), "lease_until": None}
            connection.execute(update(firings).where(due).values(**given_up, fence=firings.c.fence + 1))
            for planned_at in undecided:
                note_skipped(connection, before.id, planned_at, EDITED)
        # Whoever accepts it now, as the schedule was, accepts nothing: its fence is raised.
        tried = due & (firings.c.fence > 0)
        connection.execute(update(firings).where(tried).values(fence=firings.c.fence + 1, lease_until=None))
        connection.execute(update(schedules).where(schedules.c.id == before.id).values(**values))

    @transaction
    def remove(self, connection: Connection, schedule: Schedule) -> None:
        """Delete a schedule with its history; its renders stay. What is being accepted is not accepted."""
        # Locked first, as by whoever accepts: each would wait for the other.
        connection.execute(select(schedules.c.id).where(schedules.c.id == schedule.id).with_for_update())
        connection.execute(delete(firings).where(firings.c.schedule_id == schedule.id))
        connection.execute(delete(schedules).where(schedules.c.id == schedule.id))

    def history(self, schedule: Schedule, *, limit: int = 20, at: float | None = None) -> list[Firing]:
        """List the last firings, newest first; with `at` only the one of that planned time."""
        statement = (
            select(
                *(firings, renders.c.total, renders.c.done, renders.c.failed, renders.c.cancelled, renders.c.held),
                on_device().label("running"),
            )
            .outerjoin_from(firings, renders, renders.c.id == firings.c.render_id)
            .where(firings.c.schedule_id == schedule.id, *([] if at is None else [firings.c.planned_at == at]))
            .order_by(firings.c.planned_at.desc())
            .limit(limit)
        )
        with self.database.read() as connection:
            return [_firing(row) for row in connection.execute(statement)]

    def holding(self, render_id: str) -> Schedule | None:
        """Return the schedule that keeps a render held since its window is shut; None if none does."""
        fired = select(schedules).join(firings, firings.c.schedule_id == schedules.c.id)
        shut = (firings.c.render_id == render_id) & firings.c.window_open.is_(False)
        with self.database.ask() as connection:
            row = connection.execute(fired.where(shut)).first()
        return None if row is None else schedule_of(row)

    def unfinished_renders(self, schedule: Schedule) -> dict[str, bool]:
        """Return this schedule's unfinished renders, each with whether it is held."""
        with self.database.read() as connection:
            return {row.id: row.held for row in connection.execute(unfinished(schedule))}


def unfinished(schedule: Schedule) -> Any:
    """Select a schedule's unfinished renders, oldest first."""
    return (
        select(renders.c.id, renders.c.held)
        .join(firings, firings.c.render_id == renders.c.id)
        .where(firings.c.schedule_id == schedule.id, renders.c.finished_at.is_(None))
        .order_by(renders.c.created_at)
    )


@cache
def moment() -> Select[float]:
    """Select the present moment by the database's clock; built once, as `_all` is."""
    return select(database_now())


@cache
def _all() -> Select[Any]:
    return select(schedules).order_by(schedules.c.owner, schedules.c.name)


@cache
def taken_and_free() -> Select[Any]:
    """Select a firing that somebody may claim; built once, too."""
    free = or_(firings.c.lease_until.is_(None), firings.c.lease_until < database_now())
    return select(firings.c.planned_at).where(firings.c.outcome == FiringOutcome.TAKEN, free).limit(1)


def schedule_of(row: Row[Any]) -> Schedule:
    """Return the schedule that a row is."""
    return Schedule(
        id=row.id,
        owner=row.owner,
        name=row.name,
        plan=Plan(
            cron=row.cron,
            at=row.at,
            timezone=row.timezone,
            window=row.window,
            overlap=row.overlap,
            catch_up=row.catch_up,
            seeds=row.seeds,
            limits=_limits(row.limits),
        ),
        order=_order(row.order),
        paused=row.paused,
        created_at=row.created_at,
        decided_to=row.decided_to,
        version=row.version,
    )


def _times_of(plan: Plan) -> tuple[str | None, float | None, str]:
    return plan.cron, plan.at, plan.timezone


def columns_of(plan: Plan) -> dict[str, Any]:
    """Return the columns that a plan is."""
    limits = {name: value for name, value in plan.limits.__dict__.items() if value is not None}
    return {**plan.__dict__, "limits": json.dumps(limits) if limits else None}


def note_skipped(connection: Connection, schedule_id: str, planned_at: float, why: str) -> None:
    """Note in history why a planned time that nobody has decided did not fire."""
    values = {"planned_at": planned_at, "at": database_now(), "outcome": FiringOutcome.SKIPPED, "note": why}
    statement = insert_on_conflict(connection, firings).values(schedule_id=schedule_id, **values)
    connection.execute(statement.on_conflict_do_nothing())


def _limits(stored: str | None) -> FiringLimits:
    """Read limits; those that another version has set, and this one does not know, are not this one's to keep."""
    given = _order(stored or "{}")
    return FiringLimits(**{name: given[name] for name in FiringLimits.__dataclass_fields__ if name in given})


def _order(stored: str) -> Mapping[str, Any]:
    """Read an order. One that another program spoiled is nobody's but its schedule's trouble."""
    try:
        order = json.loads(stored)
    except ValueError:
        return {}
    return order if isinstance(order, dict) else {}


def _firing(row: Row[Any]) -> Firing:
    state: RenderState | None = None
    note = row.note
    if row.outcome == FiringOutcome.TAKEN and note is None:
        note = "waits for its turn" if row.lease_until is None else "being accepted"
    if row.total is not None:
        counters = {name: getattr(row, name) for name in ("total", "done", "failed", "cancelled")}
        state = render_state(**counters, held=bool(row.held), running=bool(row.running))
    return Firing(
        planned_at=row.planned_at,
        at=row.at,
        outcome=FiringOutcome(row.outcome),
        render_id=row.render_id,
        render_state=state,
        note=note,
    )
