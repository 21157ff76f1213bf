"""How much a firing is, and whether its schedule's limits have room for it."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from storage.database.schedule_tables import firings
from storage.renders.schedules import FiringOutcome, Schedule


@dataclass(frozen=True, kw_only=True)
class FiringSize:
    """What is known of a firing once its pictures are read."""

    pictures: int
    #: Of one device, by the pace that was measured; None: nobody knows.
    device_seconds: float | None
    #: From when until when the day goes that it is planned for, in seconds since 1970.
    day: tuple[float, float]
    #: What history is to say of it.
    note: str | None = None


def over_limit(connection: Connection, schedule: Schedule, size: FiringSize) -> str | None:
    """Return which limit leaves no room for a firing of a schedule that is locked; None if all do.

    Where nobody knows how long a firing takes, limits of device minutes do not hold it back.
    """
    limits = schedule.plan.limits
    minutes = None if size.device_seconds is None else size.device_seconds / 60
    if limits.pictures is not None and size.pictures > limits.pictures:
        return f"{size.pictures:,} pictures are more than its limit of {limits.pictures:,} for one firing"
    if limits.device_minutes is not None and minutes is not None and minutes > limits.device_minutes:
        return f"{minutes:.1f} device minutes are more than its limit of {limits.device_minutes:g} for one firing"
    if limits.pictures_per_day is None and limits.device_minutes_per_day is None:
        return None
    first, last = size.day
    before = connection.execute(
        select(func.coalesce(func.sum(firings.c.pictures), 0), func.coalesce(func.sum(firings.c.device_seconds), 0.0))
        .where(firings.c.schedule_id == schedule.id, firings.c.outcome == FiringOutcome.FIRED)
        .where(firings.c.render_id.is_not(None), firings.c.planned_at >= first, firings.c.planned_at < last)
    ).one()
    pictures, spent = before[0] + size.pictures, before[1] / 60 + (minutes or 0.0)
    if limits.pictures_per_day is not None and pictures > limits.pictures_per_day:
        return (
            f"{size.pictures:,} pictures after {before[0]:,} of that day are more than its limit of "
            f"{limits.pictures_per_day:,} a day"
        )
    if limits.device_minutes_per_day is not None and minutes is not None and spent > limits.device_minutes_per_day:
        return (
            f"{minutes:.1f} device minutes after {before[1] / 60:.1f} of that day are more than its limit of "
            f"{limits.device_minutes_per_day:g} a day"
        )
    return None
