"""What the clock does with schedules: a time is taken when it is due, and accepted beside the clock.

The protocol, in one paragraph. A tick *takes* every time that is due: a row whose key is the planned time, so that the
first to write it has taken it. Whoever has room for it *claims* a taken one, which raises its fence and gives it a
lease by the database's clock. The transaction that accepts its pictures names that fence; so a process that froze, and
whose firing was claimed by another one meanwhile, accepts nothing when it wakes. A process that is killed leaves a
firing whose lease runs out, and another claims it. Firings of one schedule are accepted one after the other.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select, update

from storage.database.connection import Database, database_now, transaction
from storage.database.schedule_tables import firings, schedules, ticking
from storage.database.upsert import insert_on_conflict
from storage.errors import InvalidInput
from storage.jobs.jobs import Jobs
from storage.jobs.submission import Accept, accept_stream
from storage.jobs.values import NewJob, Submission
from storage.renders.firing_limits import FiringSize, over_limit
from storage.renders.schedules import PAUSED, FiringOutcome, Schedule, schedule_of, taken_and_free, unfinished
from storage.renders.ticking import Ticking

#: A render of more pictures is long: to accept it, to hold it and to release it can take minutes.
LONG_PICTURES = 1000
_CLOCK = "schedules"
#: Of what the clock decides.
_NOTES = {
    FiringOutcome.MISSED: "no scheduler process was running when it came due",
    FiringOutcome.SKIPPED: PAUSED,
}


@dataclass(frozen=True, kw_only=True)
class ClaimedFiring:
    """A taken firing that is this process's to accept, as long as its row has this fence."""

    schedule: Schedule
    planned_at: float
    fence: int
    #: How many processes were given it, this one included, and did not give it back.
    attempt: int
    #: Why it was not accepted before.
    trouble: str | None

    @property
    def key(self) -> tuple[str, float]:
        return self.schedule.id, self.planned_at


class Firings:
    """Every method is one transaction."""

    def __init__(self, database: Database, jobs: Jobs, *, lease_seconds: float = 30.0) -> None:
        self.database = database
        self._jobs = jobs
        self._lease_seconds = lease_seconds

    # -- taking ------------------------------------------------------------------------------------------------

    @transaction
    def tick(
        self, connection: Connection, *, began: float, gap: float, clock: Callable[[], float] | None = None
    ) -> Ticking:
        """Note that a tick looks at the schedules; since when that was done without a pause, and the present moment.

        Args:
            began: when it began, before it waited for whoever writes.
            clock: in seconds since 1970; None: the database's.
        """
        noted = select(ticking).where(ticking.c.clock == _CLOCK)
        mine = connection.execute(noted.with_for_update(skip_locked=True)).first()
        row = mine or connection.execute(noted).first()
        now = clock() if clock is not None else connection.execute(select(database_now())).scalar_one()
        before = Ticking(since=row.since, until=row.until) if row is not None else Ticking(since=began, until=began)
        after = before.then(began=began, now=now, gap=gap)
        if row is not None and mine is None:
            return after  # another process notes it this moment, or froze while it did: nobody waits for that
        values = {"since": after.since, "until": after.until}
        connection.execute(
            insert_on_conflict(connection, ticking)
            .values(clock=_CLOCK, **values)
            .on_conflict_do_update(index_elements=[ticking.c.clock], set_=values)
        )
        return after

    @transaction
    def take(
        self, connection: Connection, schedule: Schedule, times: Mapping[float, FiringOutcome], *, long: bool = False
    ) -> int:
        """Decide planned times, in order: each is taken, was missed, or went by. How many nobody had decided before.

        None while another transaction has the schedule: the next tick comes back to it. None of a schedule that was
        removed, paused, resumed or edited since it was read.
        """
        # Whoever accepts a long render has this row for a minute; the clock does not wait for it.
        alive = connection.execute(
            select(schedules.c.paused, schedules.c.version)
            .where(schedules.c.id == schedule.id)
            .with_for_update(skip_locked=True)
        ).first()
        if not times or alive is None or (alive.paused, alive.version) != (schedule.paused, schedule.version):
            return 0
        decided = 0
        for planned_at, outcome in times.items():
            note = _NOTES.get(outcome)
            values = {"planned_at": planned_at, "at": database_now(), "outcome": outcome, "long": long, "note": note}
            decided += _insert(connection, schedule, values)
        later = (schedules.c.id == schedule.id) & (schedules.c.decided_to < max(times))
        connection.execute(update(schedules).where(later).values(decided_to=max(times)))
        return decided

    # -- accepting ---------------------------------------------------------------------------------------------

    @transaction
    def claim(
        self, connection: Connection, *, long: bool, besides: Iterable[tuple[str, float]] = ()
    ) -> ClaimedFiring | None:
        """Claim a taken firing; None if there is none that may be accepted now.

        Args:
            long: among the long ones and those that were tried before, or among the others.
            besides: those that this process has in hand.

        The first of its schedule alone: the next one's turn comes when that is decided.
        """
        earlier = firings.alias()
        first = ~(
            select(earlier.c.planned_at)
            .where(
                earlier.c.schedule_id == firings.c.schedule_id,
                earlier.c.outcome == FiringOutcome.TAKEN,
                earlier.c.planned_at < firings.c.planned_at,
            )
            .exists()
        )
        in_hand = or_(*(_at(*key) for key in besides)) if (besides := [*besides]) else None
        lane = firings.c.long | (firings.c.fence > 0)
        found = connection.execute(
            select(firings.c.planned_at, firings.c.fence, firings.c.attempt, firings.c.note, *schedules.c)
            .join(schedules, schedules.c.id == firings.c.schedule_id)
            .where(
                firings.c.outcome == FiringOutcome.TAKEN,
                or_(firings.c.lease_until.is_(None), firings.c.lease_until < database_now()),
                first,
                lane if long else ~lane,
                *([] if in_hand is None else [~in_hand]),
            )
            # Those that were never tried first: one that fails again and again is in nobody's way.
            .order_by(firings.c.fence, firings.c.planned_at)
            .limit(1)
            .with_for_update(of=firings, skip_locked=True)
        ).first()
        return None if found is None else self._claim(connection, found)

    def _claim(self, connection: Connection, found: Row[Any]) -> ClaimedFiring:
        claimed = ClaimedFiring(
            schedule=schedule_of(found),
            planned_at=found.planned_at,
            fence=found.fence + 1,
            attempt=found.attempt + 1,
            trouble=found.note,
        )
        connection.execute(
            update(firings)
            .where(_at(*claimed.key))
            .values(
                fence=claimed.fence,
                attempt=claimed.attempt,
                lease_until=database_now() + self._lease_seconds,
                note=None,
            )
        )
        return claimed

    def waiting(self) -> bool:
        """Return whether there may be something to claim: without writing, cheap enough for every second."""
        with self.database.ask() as connection:
            return connection.execute(taken_and_free()).first() is not None

    @transaction
    def renew(self, connection: Connection, claimed: Iterable[ClaimedFiring]) -> set[tuple[str, float]]:
        """Extend the leases that are still ours; the keys of those that are not: decided, removed, or claimed again."""
        mine = {one.key: one.fence for one in claimed}
        if not mine:
            return set()
        wanted = or_(*(_at(*key) for key in mine))
        rows = connection.execute(
            select(firings.c.schedule_id, firings.c.planned_at, firings.c.fence).where(
                wanted, firings.c.outcome == FiringOutcome.TAKEN
            )
        )
        ours = {(row.schedule_id, row.planned_at) for row in rows if mine[row.schedule_id, row.planned_at] == row.fence}
        if ours:
            # One that is being accepted is locked, by ourselves; the others' leases do not wait for it.
            free = connection.execute(
                select(firings.c.schedule_id, firings.c.planned_at)
                .where(or_(*(_ours(key, mine[key]) for key in ours)))
                .with_for_update(skip_locked=True)
            ).all()
            if free:
                these = or_(*(_at(row.schedule_id, row.planned_at) for row in free))
                until = database_now() + self._lease_seconds
                connection.execute(update(firings).where(these).values(lease_until=until))
        return {*mine} - ours

    @transaction
    def give_back(
        self,
        connection: Connection,
        claimed: ClaimedFiring,
        *,
        note: str | None = None,
        after_seconds: float = 0.0,
        counted: bool = False,
    ) -> bool:
        """Give a claimed firing back, for whoever claims it next; False if it is no longer ours.

        Args:
            note: why it could not be accepted.
            after_seconds: nobody is to claim it before.
            counted: whether it counts as an attempt.
        """
        ours = _ours(claimed.key, claimed.fence)
        # Its fence is raised: a thread that still works on it changes nothing any more.
        values = {
            "lease_until": database_now() + after_seconds,
            "fence": claimed.fence + 1,
            "attempt": claimed.attempt - (0 if counted else 1),
            "note": note,
        }
        return connection.execute(update(firings).where(ours).values(**values)).rowcount > 0

    @transaction
    def give_all_back(self, connection: Connection, claimed: Iterable[ClaimedFiring]) -> int:
        """Give back what a stopping process has in hand, but for what it is accepting this moment; how many."""
        given = 0
        for one in claimed:
            ours = _ours(one.key, one.fence)
            if connection.execute(select(firings.c.fence).where(ours).with_for_update(skip_locked=True)).first():
                values = {"lease_until": None, "fence": one.fence + 1, "attempt": one.attempt - 1, "note": one.trouble}
                given += connection.execute(update(firings).where(ours).values(**values)).rowcount
        return given

    @transaction
    def decide(
        self, connection: Connection, claimed: ClaimedFiring, outcome: FiringOutcome, note: str | None = None
    ) -> bool:
        """Decide a claimed firing without a render; False if it is no longer ours."""
        return _decide(connection, claimed, outcome=outcome, note=note)

    def why_not(self, claimed: ClaimedFiring) -> str | None:
        """Return why a firing is to be skipped, as things stand now; None if it is not: its prompts are to be read."""
        with self.database.read() as connection:
            paused = connection.execute(
                select(schedules.c.paused).where(schedules.c.id == claimed.schedule.id)
            ).scalar()
            return _why_not(connection, claimed.schedule, paused=bool(paused))

    def accept(
        self,
        claimed: ClaimedFiring,
        wanted: Iterable[NewJob],
        submission: Submission,
        quanta: Mapping[str, int],
        *,
        size: Callable[[], FiringSize] | None = None,
    ) -> str | None:
        """Accept the render of a claimed firing, once, however many processes try; its id.

        None if it was skipped, or is no longer ours. The lease may have run out: as long as nobody else has claimed
        the firing, it is ours. A process that is killed leaves it taken, or fired with its render. Raises InvalidInput
        for what cannot be rendered; then nothing is decided.

        Args:
            size: how much it is, asked once its pictures are read; None: no limit is looked at.
        """
        return accept_stream(
            self.database, wanted, submission, quanta, within=partial(self._accept, claimed, submission, size)
        )

    def _accept(
        self,
        claimed: ClaimedFiring,
        submission: Submission,
        size: Callable[[], FiringSize] | None,
        connection: Connection,
        accept: Accept,
    ) -> str | None:
        found = _lock(connection, claimed.schedule)
        if found is None or not _decide(connection, claimed, outcome=FiringOutcome.FIRED, note=None):
            return None
        measured = None if size is None else size()
        due = _Due(schedule=claimed.schedule, at=claimed.planned_at, paused=found.paused, size=measured)
        return self._fire(connection, due, submission, accept)

    def fire_by_hand(
        self,
        schedule: Schedule,
        at: float,
        wanted: Iterable[NewJob],
        submission: Submission,
        quanta: Mapping[str, int],
        *,
        size: Callable[[], FiringSize] | None = None,
    ) -> str | None:
        """Accept a render outside the plan, of a paused schedule too; its id, None if it was skipped or removed.

        A process that is killed leaves the firing and its render, or neither. Raises InvalidInput, also where somebody
        has edited the schedule since it was read.
        """

        def within(connection: Connection, accept: Accept) -> str | None:
            values = {"planned_at": at, "at": database_now(), "outcome": FiringOutcome.FIRED, "note": "by hand"}
            found = _lock(connection, schedule)
            if found is not None and found.version != schedule.version:
                raise InvalidInput(
                    f"schedule {schedule.name} was edited while it was fired; nothing was, fire it again"
                )
            if found is None or not _insert(connection, schedule, values):
                return None
            due = _Due(schedule=schedule, at=at, paused=False, size=None if size is None else size(), note="by hand")
            return self._fire(connection, due, submission, accept)

        return accept_stream(self.database, wanted, submission, quanta, within=within)

    def _fire(self, connection: Connection, due: "_Due", submission: Submission, accept: Accept) -> str | None:
        """Accept within the transaction that has decided the firing, as the schedule's rule of overlap says."""
        schedule, this = due.schedule, _at(due.schedule.id, due.at)
        size, why = due.size, _why_not(connection, schedule, paused=due.paused)
        if why is None and size is not None:
            why = over_limit(connection, schedule, size)
        if why is not None:
            connection.execute(update(firings).where(this).values(outcome=FiringOutcome.SKIPPED, note=why))
            return None
        if schedule.plan.overlap == "cancel":
            for row in connection.execute(unfinished(schedule)).all():
                self._jobs.cancel_within(connection, row.id)
        render_id = accept()
        told = {"render_id": render_id, "window_open": not submission.held}
        if size is not None:
            notes = "; ".join(filter(None, (due.note, size.note))) or None
            told |= {"pictures": size.pictures, "device_seconds": size.device_seconds, "note": notes}
        connection.execute(update(firings).where(this).values(**told))
        return render_id


@dataclass(frozen=True, kw_only=True)
class _Due:
    """A firing whose schedule is locked, and whether that is paused."""

    schedule: Schedule
    at: float
    paused: bool
    size: FiringSize | None
    #: How it came to be.
    note: str | None = None


def _lock(connection: Connection, schedule: Schedule) -> Any:
    """Lock a schedule, so that its firings follow one another; `paused` and `version` of it. None if it was removed."""
    found = select(schedules.c.paused, schedules.c.version).where(schedules.c.id == schedule.id)
    return connection.execute(found.with_for_update()).first()


def _insert(connection: Connection, schedule: Schedule, values: Mapping[str, Any]) -> bool:
    """Insert a firing; False if its time was decided before."""
    statement = insert_on_conflict(connection, firings).values(schedule_id=schedule.id, **values)
    inserted = connection.execute(statement.on_conflict_do_nothing().returning(firings.c.planned_at))
    return inserted.first() is not None


def _decide(connection: Connection, claimed: ClaimedFiring, **values: Any) -> bool:
    statement = update(firings).where(_ours(claimed.key, claimed.fence))
    return connection.execute(statement.values(at=database_now(), lease_until=None, **values)).rowcount > 0


def _why_not(connection: Connection, schedule: Schedule, *, paused: bool) -> str | None:
    if paused:
        return "the schedule was paused before it was accepted"
    if schedule.plan.overlap == "skip" and (before := connection.execute(unfinished(schedule)).first()) is not None:
        return f"render {before.id} was not finished"
    return None


def _at(schedule_id: str, planned_at: float) -> ColumnElement[bool]:
    return and_(firings.c.schedule_id == schedule_id, firings.c.planned_at == planned_at)


def _ours(key: tuple[str, float], fence: int) -> ColumnElement[bool]:
    return and_(_at(*key), firings.c.outcome == FiringOutcome.TAKEN, firings.c.fence == fence)
