"""Whose pictures devices rendered lately, and for how long."""

import json
from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select

from storage.database.connection import Database, database_now
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


def device_time(database: Database, *, within_seconds: float, owner: str | None = None) -> list[DeviceTime]:
    """Return how long devices rendered for each owner within this time, or for one, by owner.

    Each picture of a batch counts for an equal part of its time; one that was deleted since, for nobody. At most the
    last 86,400 batches are read.
    """
    recent = (
        select(batches.c.jobs, batches.c.render_seconds)
        .where(batches.c.finished_at > database_now() - within_seconds)
        .order_by(batches.c.finished_at.desc())
        .limit(MOST_BATCHES)
    )
    share: dict[int, float] = {}
    spent: defaultdict[str, list[float]] = defaultdict(list)
    with database.read() as connection:
        for row in connection.execute(recent):
            ids = json.loads(row.jobs)
            share |= dict.fromkeys(ids, row.render_seconds / max(1, len(ids)))
        left = sorted(share)
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            theirs = select(jobs.c.id, jobs.c.owner).where(jobs.c.id.in_(some))
            for row in connection.execute(theirs if owner is None else theirs.where(jobs.c.owner == owner)):
                spent[row.owner].append(share[row.id])
    return [DeviceTime(owner=one, pictures=len(some), seconds=sum(some)) for one, some in sorted(spent.items())]
