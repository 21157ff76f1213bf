"""Take what is due, and note what was missed: nothing else, so that no schedule waits for another one.

Any number of processes may do this at once, and be killed in it: a time is decided in one transaction, by whoever
writes its row first (`storage.renders.firings`). What was taken is accepted elsewhere (`scheduler.cron.acceptors`).
"""

from collections.abc import Callable

from scheduler.cron.one_by_one import one_by_one
from scheduler.cron.plan import LATE_SECONDS, due, next_of, past
from storage.errors import DatabaseBusy
from storage.process.logs import LogThrottle
from storage.renders.firings import LONG_PICTURES, Firings
from storage.renders.schedules import FiringOutcome, Schedule, Schedules
from storage.renders.ticking import Ticking

#: Between two notes that somebody is ticking; far less than what makes a time late.
_NOTE_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 3600.0


class ScheduleRunner:
    """The clock of all schedules; for one thread."""

    def __init__(
        self,
        schedules: Schedules,
        firings: Firings,
        *,
        on_taken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare to tick.

        Args:
            on_taken: called after something was taken.
            clock: in seconds since 1970; None: the database's clock.
        """
        self._schedules = schedules
        self._firings = firings
        self._on_taken = on_taken
        self._clock = clock
        self._throttle = LogThrottle()
        #: As it was noted last.
        self._ticking: Ticking | None = None
        #: The last tick: from when until when it ran, or waited for a database that was busy.
        self._last: tuple[float, float] | None = None

    def run_once(self) -> float:
        """Take everything that is due; return the seconds until something is due again, at most an hour.

        Raises ServiceProblem; what was done stays done, and the rest is tried again with the next tick.
        """
        now, schedules = self._schedules.at_present()
        now = now if self._clock is None else self._clock()
        clocked = [schedule for schedule in schedules if not schedule.ended]
        if not clocked:
            return _LONGEST_WAIT_SECONDS
        ticking = self._tick(now)
        waits = [_LONGEST_WAIT_SECONDS]
        try:
            one_by_one(clocked, lambda schedule: waits.append(self._take_due(schedule, ticking)), self._throttle)
        except DatabaseBusy:
            self._last = now, self._now()
            raise
        self._last = now, self._now()
        return min(waits)

    def _now(self) -> float:
        return self._schedules.now() if self._clock is None else self._clock()

    def _tick(self, now: float) -> Ticking:
        """Note that somebody is ticking, and return since when, and the present moment."""
        if self._ticking is not None and 0 <= now - self._ticking.until < _NOTE_SECONDS:
            return Ticking(since=self._ticking.since, until=now)
        # A tick that waited for whoever writes was ticking all the while.
        waited = self._last is not None and 0 <= now - self._last[1] <= LATE_SECONDS
        began = self._last[0] if self._last is not None and waited else now
        try:
            noted = self._firings.tick(began=began, gap=LATE_SECONDS, clock=self._clock)
        except DatabaseBusy:
            self._last = began, self._now()
            raise
        if self._ticking is not None:
            # What this process knows of itself, be it that another one kept it from noting that.
            own = self._ticking.then(began=began, now=noted.until, gap=LATE_SECONDS)
            noted = Ticking(since=min(own.since, noted.since), until=noted.until)
        self._ticking = noted
        return noted

    def _take_due(self, schedule: Schedule, ticking: Ticking) -> float:
        plan, now = schedule.plan, ticking.until
        if schedule.paused:
            times = dict.fromkeys(past(plan, after=schedule.decided_to, now=now), FiringOutcome.SKIPPED)
        else:
            found = due(plan, after=schedule.decided_to, now=now, ticking_since=ticking.since)
            times = {one.at: FiringOutcome.TAKEN if one.fires else FiringOutcome.MISSED for one in found}
        if times and self._firings.take(schedule, times, long=_is_long(schedule)):
            self._on_taken()
        coming = next_of(plan, max(now, schedule.decided_to))
        return _LONGEST_WAIT_SECONDS if coming is None else coming - now


def _is_long(schedule: Schedule) -> bool:
    if schedule.order.get("source") is not None:
        return True  # nobody knows yet; and a store may hang
    pictures = schedule.order.get("pictures")
    return not isinstance(pictures, int) or pictures > LONG_PICTURES
