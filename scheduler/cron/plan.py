"""Decide when a schedule is due: pure functions of its cron expression, its time zone and the time.

Expressions are those of Debian's cron (library `cronsim`), daylight saving included: a job at a time that the clock
skips runs right after it, one at a time that comes twice runs once; hourly ones and the like follow real time.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from storage.errors import BadSpecification

CatchUp = Literal["none", "last", "all"]

#: What came due longer ago, before anybody looked, counts as missed: the farm was down.
LATE_SECONDS = 60.0
#: Of more missed runs only the latest are noted, or made up for.
MOST_MISSED = 1000
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Hold a time that is due, in seconds since 1970, and whether the schedule fires or notes it as missed."""

    at: float
    fires: bool


def check_plan(cron: str, timezone: str, window: str | None) -> None:
    """Check a plan. Raises BadSpecification naming the wrong field."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadSpecification(
            f"timezone: {timezone!r} is not a time zone; expected a name such as Europe/Paris"
        ) from None
    try:
        if len(cron.split()) > 5:
            raise CronSimError("Wrong number of fields")  # the library knows seconds, the farm does not
        next(_times(cron, zone, 0.0), None)
    except CronSimError as error:
        raise BadSpecification(
            f"cron: {cron!r} is not a cron expression ({str(error).lower()}); expected minute, hour, day of month, "
            'month, day of week, such as "0 2 * * *"'
        ) from None
    if next_time(cron, timezone, 0.0) is None:
        raise BadSpecification(f"cron: {cron!r} never fires: no month has such a day")
    if window is not None and ((match := _WINDOW.fullmatch(window)) is None or match.group(1, 2) == match.group(3, 4)):
        raise BadSpecification(f"window: {window!r} is not a window; expected two times of day, such as 01:00-06:00")


def next_time(cron: str, timezone: str, after: float) -> float | None:
    """Return the first time after that; None if there is none. Raises BadSpecification if nobody can say."""
    with _read(cron, timezone):
        return next(_times(cron, ZoneInfo(timezone), after), None)


def due(
    cron: str, timezone: str, catch_up: CatchUp, *, after: float, now: float, ticking_since: float
) -> list[Planned]:
    """Return the times after `after` and up to `now`, in order, and what becomes of each.

    Args:
        ticking_since: since when somebody has looked without a pause. What came due before that, by more than a
            minute, is missed; what came due since then is not, however late it is looked at.

    Raises BadSpecification if nobody can say.
    """
    found: deque[float] = deque(maxlen=MOST_MISSED)
    with _read(cron, timezone):
        for at in _times(cron, ZoneInfo(timezone), after):
            if at > now:
                break
            found.append(at)
    missed = [at for at in found if at < ticking_since - LATE_SECONDS]
    made_up_for = {"none": [], "last": missed[-1:] if len(missed) == len(found) else [], "all": missed}[catch_up]
    return [Planned(at=at, fires=at not in missed or at in made_up_for) for at in found]


def is_open(window: str | None, timezone: str, now: float) -> bool:
    """Return whether a window, such as 22:00-06:00, is open; without one it always is.

    Raises BadSpecification if nobody can say.
    """
    if window is None:
        return True
    with _read(window, timezone):
        first, last = (time.fromisoformat(part) for part in window.split("-"))
        here = datetime.fromtimestamp(now, ZoneInfo(timezone)).time()
    return first <= here < last if first < last else here >= first or here < last


def in_zone(at: float, timezone: str) -> str:
    """Return a time as local time: `2026-03-29 03:00 CEST`."""
    return datetime.fromtimestamp(at, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M %Z")


@contextmanager
def _read(what: str, timezone: str) -> Iterator[None]:
    """Say what cannot be read of a stored plan: another version or another machine may know more time zones."""
    try:
        yield
    except (CronSimError, ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSpecification(f"{what!r} in the time zone {timezone!r} cannot be read here: {error}") from error


def _times(cron: str, zone: ZoneInfo, after: float) -> Iterator[float]:
    """Yield times in seconds since 1970. Raises CronSimError for an invalid expression."""
    expression = _NICKNAMES.get(cron.strip().lower(), cron)
    # From UTC: the conversion sets the fold of an hour that occurs twice.
    start = datetime.fromtimestamp(after, UTC).astimezone(zone)
    return (moment.timestamp() for moment in CronSim(expression, start))
