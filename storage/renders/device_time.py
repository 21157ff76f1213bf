"""Whose pictures devices rendered lately, and for how long."""

import json
from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select

from storage.database.connection import Database, this_moment
from storage.database.tables import batches, jobs

#: Ids in one statement: databases take only so many.
_AT_ONCE = 1000
#: Batches that are read: a day of a farm that records one each second.
MOST_BATCHES = 86_400


@dataclass(frozen=True, kw_only=True)
class DeviceTime:
    """What devices did for an owner."""

    owner: str
    pictures: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DeviceTimes:
    """What devices did, by owner."""

    owners: list[DeviceTime]
    #: Before this moment, seconds since 1970, nothing was read, for there are too many batches; None: all was read.
    read_since: float | None


def device_time(
    database: Database, *, within_seconds: float, owner: str | None = None, most: int = MOST_BATCHES
) -> DeviceTimes:
    """Return how long devices rendered for each owner within this time, or for one, by owner.

    Each picture of a batch counts for an equal part of its time; one that was deleted since, for nobody. At most the
    last `most` batches are read.
    """
    recent = (
        select(batches.c.jobs, batches.c.render_seconds, batches.c.finished_at)
        .where(batches.c.finished_at > this_moment() - within_seconds)
        .order_by(batches.c.finished_at.desc())
        .limit(most + 1)
    )
    read_since: float | None = None
    share: dict[int, float] = {}
    spent: defaultdict[str, list[float]] = defaultdict(list)
    with database.read() as connection:
        rows = connection.execute(recent).all()
        if len(rows) > most:
            rows = rows[:most]
            read_since = float(rows[-1].finished_at)
        for batch in rows:
            ids = json.loads(batch.jobs)
            share |= dict.fromkeys(ids, batch.render_seconds / max(1, len(ids)))
        left = sorted(share)
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            theirs = select(jobs.c.id, jobs.c.owner).where(jobs.c.id.in_(some))
            for row in connection.execute(theirs if owner is None else theirs.where(jobs.c.owner == owner)):
                spent[row.owner].append(share[row.id])
    owners = [DeviceTime(owner=one, pictures=len(some), seconds=sum(some)) for one, some in sorted(spent.items())]
    return DeviceTimes(owners=owners, read_since=read_since)
