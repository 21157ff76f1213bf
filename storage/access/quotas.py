"""How much of a key's limits is used up."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, literal, select, text

from storage.access.keys import Limits
from storage.database.connection import Database, database_now, this_moment
from storage.database.key_tables import key_usage, keys
from storage.database.tables import renders
from storage.database.upsert import insert_on_conflict
from storage.errors import NotPermitted, QuotaExceeded

#: How long a request waits for another one of its key that is being accepted.
_PATIENCE = "60s"
#: Minutes.
_DAY = 24 * 60


@dataclass(frozen=True, kw_only=True)
class QuotaUsage:
    unfinished: int
    accepted_last_day: int
    requests_last_minute: int


#: As of a key that has asked for nothing yet.
UNUSED = QuotaUsage(unfinished=0, accepted_last_day=0, requests_last_minute=0)


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


def refuse_excess(limits: Limits, used: QuotaUsage, pictures: int) -> None:
    """Raise QuotaExceeded if so many more pictures exceed a limit now, NotPermitted if they always will."""
    if over := exceeded_limit(limits, used, pictures):
        if over.retry_seconds is None:
            raise NotPermitted(over.words)
        raise QuotaExceeded(over.words, retry_seconds=over.retry_seconds)


def most_at_once(limits: Limits) -> int | None:
    """Return the most pictures that one render of a key can ever have; None: any number."""
    return min((most for most in (limits.queued, limits.per_day) if most is not None), default=None)


def _exceeded_by_itself(limits: Limits, pictures: int) -> str | None:
    """Return, in words, the limit that so many pictures exceed even where nothing of it is used up."""
    if limits.per_minute == 0:
        return "this key may submit no renders"
    for most, what in ((limits.queued, "unfinished pictures"), (limits.per_day, "pictures a day")):
        if most is not None and pictures > most:
            return f"more pictures than this key's limit of {most} {what} allows, now and later; submit fewer at a time"
    return None


class Quotas:
    """Usage by key: what is unfinished and new is counted from renders, what was accepted in a day minute by minute."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def used(self, key_id: str, limits: Limits) -> QuotaUsage:
        """Return what is used up of these limits now. `keep_to_limits` has the last word."""
        with self._database.ask() as connection:
            return _used(connection, key_id, limits)


def is_alone(limits: Limits) -> bool:
    """Return whether requests of a key are accepted one after the other, since each may use up what is left."""
    return limits != Limits(work=limits.work)


def accept_alone(connection: Connection, key_id: str, limits: Limits) -> None:
    """Have no other request of a limited key accepted until the transaction ends."""
    if not is_alone(limits) or connection.dialect.name != "postgresql":
        return  # SQLite's writers follow one another anyway.
    # While a million pictures are accepted, this waits longer than other locks are waited for.
    said = {"name": f"limits:{key_id}", "patience": _PATIENCE}
    connection.execute(text("SELECT set_config('lock_timeout', :patience, true)"), said)
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), said)


def keep_to_limits(connection: Connection, key_id: str, limits: Limits, pictures: int) -> None:
    """Check a key's limits in the transaction that accepts so many pictures, after `accept_alone`.

    Raises QuotaExceeded; NotPermitted if waiting cannot help.
    """
    if is_alone(limits):
        refuse_excess(limits, _used(connection, key_id, limits), pictures)


def keep_retry_to_limits(connection: Connection, render_id: str, pictures: int) -> None:
    """Check the limits of the key that a render counts against, in the transaction that queues some of it again.

    Raises QuotaExceeded; NotPermitted if waiting cannot help.
    """
    theirs = select(keys.c.id, keys.c.limits).join(renders, renders.c.key_id == keys.c.id)
    key = connection.execute(theirs.where(renders.c.id == render_id)).first()
    if key is not None:
        # What was accepted in a day or a minute is not accepted again.
        limits = Limits(queued=Limits(**json.loads(key.limits)).queued)
        accept_alone(connection, key.id, limits)
        keep_to_limits(connection, key.id, limits, pictures)


def note_accepted(connection: Connection, key_id: str, limits: Limits, pictures: int) -> None:
    """Note what a key has accepted, in the transaction that accepts it."""
    if limits.per_day is None:
        return
    minute = _minute(connection)
    connection.execute(delete(key_usage).where(key_usage.c.key_id == key_id, key_usage.c.minute < minute - _DAY))
    noted = insert_on_conflict(connection, key_usage).values(key_id=key_id, minute=minute, pictures=pictures)
    connection.execute(
        noted.on_conflict_do_update(
            index_elements=[key_usage.c.key_id, key_usage.c.minute], set_={"pictures": key_usage.c.pictures + pictures}
        )
    )


def unfinished_of(key_id: str) -> Select[Any]:
    """Select how many pictures of a key wait or run: it reads no render that is finished."""
    left = renders.c.total - renders.c.done - renders.c.failed - renders.c.cancelled
    return select(func.sum(left)).where(renders.c.key_id == key_id, renders.c.finished_at.is_(None))


def _used(connection: Connection, key_id: str, limits: Limits) -> QuotaUsage:
    """Count what is limited; of renders that are finished, only as many as one minute's limit."""
    unfinished: Any = literal(0)
    last_day: Any = literal(0)
    last_minute: Any = literal(0)
    if limits.queued is not None:
        unfinished = unfinished_of(key_id).scalar_subquery()
    if limits.per_day is not None:
        # The first minute counts whole: rather a few seconds too many than a picture.
        theirs = (key_usage.c.key_id == key_id) & (key_usage.c.minute >= _minute(connection) - _DAY)
        last_day = select(func.sum(key_usage.c.pictures)).where(theirs).scalar_subquery()
    if limits.per_minute is not None:
        theirs = (renders.c.key_id == key_id) & (renders.c.created_at > this_moment() - 60)
        some = select(renders.c.id).where(theirs).limit(limits.per_minute).subquery()
        last_minute = select(func.count()).select_from(some).scalar_subquery()
    # Whoever submits waits for each round trip.
    used = connection.execute(select(unfinished, last_day, last_minute)).one()
    of_renders, of_day, of_minute = (int(number or 0) for number in used)
    return QuotaUsage(unfinished=of_renders, accepted_last_day=of_day, requests_last_minute=of_minute)


def _minute(connection: Connection) -> int:
    return int(connection.execute(select(database_now())).scalar_one() // 60)
