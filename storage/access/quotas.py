"""How much of a key's limits is used up."""

from dataclasses import dataclass

from sqlalchemy import func, select

from storage.access.keys import Limits
from storage.database.connection import Database, database_now
from storage.database.tables import renders


@dataclass(frozen=True, kw_only=True)
class QuotaUsage:
    unfinished: int
    accepted_last_day: int
    requests_last_minute: int


@dataclass(frozen=True, kw_only=True)
class LimitExceeded:
    """A limit that would be exceeded, in words, and when a retry makes sense; None: never."""

    words: str
    retry_seconds: int | None


def exceeded_limit(limits: Limits, used: QuotaUsage, pictures: int) -> LimitExceeded | None:
    """Return the limit of a key that so many more pictures would exceed, if any."""
    if never := _exceeded_by_itself(limits, pictures):
        return LimitExceeded(words=never, retry_seconds=None)
    if limits.per_minute is not None and used.requests_last_minute >= limits.per_minute:
        return LimitExceeded(words=f"this key may submit {limits.per_minute} renders a minute", retry_seconds=60)
    if limits.queued is not None and used.unfinished + pictures > limits.queued:
        return LimitExceeded(
            words=f"this key may have {limits.queued} unfinished pictures and has {used.unfinished}; "
            "wait until some are done, or submit fewer",
            retry_seconds=30,
        )
    if limits.per_day is not None and used.accepted_last_day + pictures > limits.per_day:
        return LimitExceeded(
            words=f"this key may submit {limits.per_day} pictures a day; {used.accepted_last_day} were accepted "
            "in the last 24 hours",
            retry_seconds=3600,
        )
    return None


def _exceeded_by_itself(limits: Limits, pictures: int) -> str | None:
    """Return, in words, the limit that so many pictures exceed even where nothing of it is used up."""
    if limits.per_minute == 0:
        return "this key may submit no renders"
    for most, what in ((limits.queued, "unfinished pictures"), (limits.per_day, "pictures a day")):
        if most is not None and pictures > most:
            return (
                f"{pictures} pictures are more than this key's limit of {most} {what}, now and later; "
                "submit fewer at a time"
            )
    return None


class Quotas:
    """Usage is counted from renders: there is nothing to reset and nothing to drift."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def used(self, key_id: str) -> QuotaUsage:
        left = renders.c.total - renders.c.done - renders.c.failed - renders.c.cancelled
        theirs = renders.c.key_id == key_id
        with self._database.read() as connection:

            def scalar(what: object, *where: object) -> int:
                return int(connection.execute(select(what).where(theirs, *where)).scalar() or 0)  # type: ignore[call-overload]

            return QuotaUsage(
                unfinished=scalar(func.sum(left), renders.c.finished_at.is_(None)),
                accepted_last_day=scalar(func.sum(renders.c.total), renders.c.created_at > database_now() - 86400),
                requests_last_minute=scalar(func.count(), renders.c.created_at > database_now() - 60),
            )
