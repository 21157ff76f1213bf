"""Moments and windows, as people write them in a time zone: `2026-12-01 02:00`, `01:00-06:00`.

Pure functions of what is written, the zone and the time; daylight saving included.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from storage.errors import BadSpecification

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ Tt]\d\d:\d\d(:\d\d)?(?P<offset>[Zz]|[+-]\d\d:?\d\d)?")
#: Where most systems say which zone their clock shows.
_LOCAL_TIME = Path("/etc/localtime")
#: Within which a window opens, or never does.
_DAYS = 3


class Moment(NamedTuple):
    """Hold a moment in seconds since 1970, and what is to be said of how it was read."""

    at: float
    remark: str | None = None


# -- zones -----------------------------------------------------------------------------------------------------


def machine_zone() -> str:
    """Return the name of this machine's time zone: of `TZ`, or of its clock; UTC if neither has a name."""
    if name := os.environ.get("TZ", "").removeprefix(":"):
        return name if _is_zone(name) else "UTC"
    _, _, name = str(_LOCAL_TIME.resolve()).partition("zoneinfo/")
    name = name.removeprefix("posix/").removeprefix("right/")
    return name if name and not name.endswith("Etc/UTC") and _is_zone(name) else "UTC"


def check_zone(timezone: str) -> None:
    """Check the name of a zone. Raises BadSpecification."""
    if not _is_zone(timezone):
        raise BadSpecification(
            f"timezone: {timezone!r} is not a time zone; expected a name such as Europe/Paris"
        ) from None


def in_zone(at: float, timezone: str) -> str:
    """Return a time as local time: `2026-03-29 03:00 CEST`."""
    return datetime.fromtimestamp(at, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M %Z")


@contextmanager
def read_here(what: str, timezone: str) -> Iterator[None]:
    """Say what cannot be read of a stored plan: another version or another machine may know more time zones."""
    try:
        yield
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSpecification(f"{what!r} in the time zone {timezone!r} cannot be read here: {error}") from error


# -- moments ---------------------------------------------------------------------------------------------------


def moment(text: str, timezone: str, *, field: str) -> Moment:
    """Read a moment: a date and a time of day of the zone, or with an offset of its own (`+01:00`, `Z`).

    A time that the clocks show twice is the first of the two, which is remarked. Raises BadSpecification for what is
    no moment, and for a time that the clocks skip.
    """
    check_zone(timezone)
    if (match := _MOMENT.fullmatch(text.strip())) is None:
        raise BadSpecification(f"{field}: {text[:40]!r} is not a time; expected one such as 2026-12-01 02:00")
    try:
        written = datetime.fromisoformat(match[0].upper())
        zone = ZoneInfo(timezone)
        found = Moment(written.timestamp()) if match["offset"] else _local(written.replace(tzinfo=zone), field)
        datetime.fromtimestamp(found.at, UTC).astimezone(zone)  # as it is going to be shown
        return found
    except (ValueError, OverflowError, OSError):
        raise BadSpecification(f"{field}: {text[:40]!r} is not a time that there is") from None


def _local(first: datetime, field: str) -> Moment:
    second, shown = first.replace(fold=1), first.strftime("%Y-%m-%d %H:%M")
    there = datetime.fromtimestamp(first.timestamp(), UTC).astimezone(first.tzinfo)
    if there.replace(tzinfo=None) != first.replace(tzinfo=None):
        raise BadSpecification(
            f"{field}: {shown} does not exist in {first.tzinfo}, where the clocks skip it that day; "
            f"it would be {there:%H:%M %Z}"
        )
    if first.utcoffset() == second.utcoffset():
        return Moment(first.timestamp())
    other = second.strftime("%z")
    return Moment(
        first.timestamp(),
        f"{field}: {shown} comes twice in {first.tzinfo} that day, and the first is meant ({first:%Z}); "
        f"{shown}{other[:3]}:{other[3:]} would be the second",
    )


def day_of(at: float, timezone: str) -> tuple[float, float]:
    """Return when a moment's day begins and ends in a zone."""
    zone = ZoneInfo(timezone)
    day = datetime.fromtimestamp(at, zone).date()
    first, last = (datetime.combine(one, time(), zone).timestamp() for one in (day, day + timedelta(days=1)))
    return first, last


# -- windows ---------------------------------------------------------------------------------------------------


def check_window(window: str) -> None:
    """Check a window. Raises BadSpecification."""
    if (match := _WINDOW.fullmatch(window)) is None or match.group(1, 2) == match.group(3, 4):
        raise BadSpecification(f"window: {window!r} is not a window; expected two times of day, such as 01:00-06:00")


def is_open(window: str | None, timezone: str, now: float) -> bool:
    """Return whether a window, such as 22:00-06:00, is open; without one it always is.

    Raises BadSpecification if nobody can say.
    """
    if window is None:
        return True
    with read_here(window, timezone):
        first, last = _edges(window)
        here = datetime.fromtimestamp(now, ZoneInfo(timezone)).time()
    return first <= here < last if first < last else here >= first or here < last


def opens_at(window: str | None, timezone: str, now: float) -> float:
    """Return when a window is open, from now on: now, or when it opens next. Raises BadSpecification as above."""
    if window is None or is_open(window, timezone, now):
        return now
    return _next_edge(window, timezone, now, _edges(window)[0], opened=True)


def shuts_at(window: str, timezone: str, now: float) -> float:
    """Return when a window that is open now shuts. Raises BadSpecification as above."""
    return _next_edge(window, timezone, now, _edges(window)[1], opened=False)


def _edges(window: str) -> tuple[time, time]:
    first, last = (time.fromisoformat(part) for part in window.split("-"))
    return first, last


def _next_edge(window: str, timezone: str, now: float, edge: time, *, opened: bool) -> float:
    """Return the first moment after now at which the clock passes an edge, and the window is then open, or shut."""
    with read_here(window, timezone):
        zone = ZoneInfo(timezone)
        today = datetime.fromtimestamp(now, zone).date()
        for day in range(-1, _DAYS):
            local = datetime.combine(today + timedelta(days=day), edge, zone)
            for found in sorted({local.timestamp(), local.replace(fold=1).timestamp()}):
                if found > now and is_open(window, timezone, found) == opened:
                    return found
    raise BadSpecification(f"window: {window!r} does not open in {timezone} within {_DAYS} days")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
