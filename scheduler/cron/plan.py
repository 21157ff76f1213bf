"""Decide when a schedule is due: pure functions of its cron expression, its time zone and the time.

Expressions are those of Debian's cron (library `cronsim`), daylight saving included: a job at a time that the clock
skips runs right after it, one at a time that comes twice runs once; hourly ones and the like follow real time.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from scheduler.intake.moments import check_window, check_zone, in_zone, is_open, opens_at, read_here
from storage.errors import BadSpecification
from storage.renders.schedules import Plan

#: What came due longer ago, before anybody looked, counts as missed: the farm was down.
LATE_SECONDS = 60.0
#: Of more missed runs only the latest are noted, or made up for.
MOST_MISSED = 1000
#: How many times to come are compared with a window.
_LOOKED_AT = 100
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Hold a time that is due, in seconds since 1970, and whether the schedule fires or notes it as missed."""

    at: float
    fires: bool


def check_plan(cron: str, timezone: str, window: str | None) -> None:
    """Check a plan that recurs. Raises BadSpecification naming the wrong field."""
    check_zone(timezone)
    try:
        if len(cron.split()) > 5:
            raise CronSimError("Wrong number of fields")  # the library knows seconds, the farm does not
        next(_times(cron, ZoneInfo(timezone), 0.0), None)
    except CronSimError as error:
        raise BadSpecification(
            f"cron: {cron!r} is not a cron expression ({str(error).lower()}); expected minute, hour, day of month, "
            'month, day of week, such as "0 2 * * *"'
        ) from None
    if next_time(cron, timezone, 0.0) is None:
        raise BadSpecification(f"cron: {cron!r} never fires: no month has such a day")
    if window is not None:
        check_window(window)


def check_once(at: float, timezone: str, window: str | None, *, now: float) -> None:
    """Check a plan that fires once. Raises BadSpecification naming the wrong field."""
    check_zone(timezone)
    if at <= now:
        raise BadSpecification(f"at: {in_zone(at, timezone)} is past; it is {in_zone(now, timezone)} now")
    if window is not None:
        check_window(window)


def outside_remarks(plan: Plan, *, now: float) -> list[str]:
    """Return remarks on times that lie outside the plan's window: what is fired then waits until it opens."""
    if plan.window is None:
        return []
    if plan.at is not None:
        if is_open(plan.window, plan.timezone, plan.at):
            return []
        opens = in_zone(opens_at(plan.window, plan.timezone, plan.at), plan.timezone)
        return [f"at: outside the window {plan.window}; its pictures wait until {opens}"]
    coming = [*islice(times_after(plan, now), _LOOKED_AT)]
    outside = [at for at in coming if not is_open(plan.window, plan.timezone, at)]
    if not outside:
        return []
    opens = in_zone(opens_at(plan.window, plan.timezone, outside[0]), plan.timezone)
    first = f"those of {in_zone(outside[0], plan.timezone)} wait until {opens}"
    if len(outside) == len(coming):
        return [f"cron: no time lies within the window {plan.window}; the pictures wait for it: {first}"]
    return [f"cron: {len(outside)} of the next {len(coming)} times lie outside the window {plan.window}: {first}"]


def times_after(plan: Plan, after: float) -> Iterator[float]:
    """Yield the times of a plan after a moment, in order. Raises BadSpecification if nobody can say."""
    if plan.cron is None:
        if plan.at is not None and plan.at > after:
            yield plan.at
        return
    with _read(plan.cron, plan.timezone):
        yield from _times(plan.cron, ZoneInfo(plan.timezone), after)


def next_of(plan: Plan, after: float) -> float | None:
    """Return a plan's first time after that; None if there is none. Raises BadSpecification if nobody can say."""
    return next(times_after(plan, after), None)


def next_time(cron: str, timezone: str, after: float) -> float | None:
    """Return the first time after that; None if there is none. Raises BadSpecification if nobody can say."""
    with _read(cron, timezone):
        return next(_times(cron, ZoneInfo(timezone), after), None)


def due(plan: Plan, *, after: float, now: float, ticking_since: float) -> list[Planned]:
    """Return the times after `after` and up to `now`, in order, and what becomes of each.

    Args:
        ticking_since: since when somebody has looked without a pause. What came due before that, by more than a
            minute, is missed; what came due since then is not, however late it is looked at.

    Raises BadSpecification if nobody can say.
    """
    found = past(plan, after=after, now=now)
    missed = [at for at in found if at < ticking_since - LATE_SECONDS]
    made_up_for = {"none": [], "last": missed[-1:] if len(missed) == len(found) else [], "all": missed}[plan.catch_up]
    return [Planned(at=at, fires=at not in missed or at in made_up_for) for at in found]


def past(plan: Plan, *, after: float, now: float) -> list[float]:
    """Return the times after `after` and up to `now`, in order, the latest if they are many.

    Raises BadSpecification if nobody can say.
    """
    found: deque[float] = deque(maxlen=MOST_MISSED)
    for at in times_after(plan, after):
        if at > now:
            break
        found.append(at)
    return [*found]


@contextmanager
def _read(cron: str, timezone: str) -> Iterator[None]:
    """Say what cannot be read of a stored plan."""
    with read_here(cron, timezone):
        try:
            yield
        except CronSimError as error:
            raise ValueError(error) from error


def _times(cron: str, zone: ZoneInfo, after: float) -> Iterator[float]:
    """Yield times in seconds since 1970. Raises CronSimError for an invalid expression."""
    expression = _NICKNAMES.get(cron.strip().lower(), cron)
    # From UTC: the conversion sets the fold of an hour that occurs twice.
    start = datetime.fromtimestamp(after, UTC).astimezone(zone)
    return (moment.timestamp() for moment in CronSim(expression, start))
