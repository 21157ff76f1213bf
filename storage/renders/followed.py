"""How many renders stand at once: few statements, however many are asked about, for whoever reads for all who wait."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from storage.database.connection import Database
from storage.database.tables import jobs, renders, workers
from storage.fleet.workers import read_progress
from storage.renders.views import RenderView, read_render, select_renders
from storage.rules.states import State

#: Databases take only so many values in a statement.
_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class FollowedRender:
    """A render, and how many events it had at the same moment."""

    view: RenderView
    events: int


class Followed:
    """Answers about many renders at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unfinished(self, ids: Collection[str]) -> set[str]:
        """Return those of these renders that have unfinished jobs and are not being deleted."""
        found: set[str] = set()
        with self._database.ask() as connection:
            for some in _pieces(ids):
                waits = (renders.c.id.in_(some), renders.c.finished_at.is_(None), ~renders.c.purging)
                found.update(connection.execute(select(renders.c.id).where(*waits)).scalars())
        return found

    def renders(self, ids: Collection[str]) -> dict[str, FollowedRender]:
        """Return those of these renders that are there, by id."""
        with self._database.ask() as connection:
            return {
                row.id: FollowedRender(view=read_render(row), events=row.events)
                for some in _pieces(ids)
                for row in connection.execute(select_renders().where(renders.c.id.in_(some), ~renders.c.purging))
            }

    def shares(self, ids: Collection[str]) -> dict[str, dict[int, float]]:
        """Return, by render and index, the share of steps done, 0…1, of pictures that are on a device."""
        shares: defaultdict[str, dict[int, float]] = defaultdict(dict)
        with self._database.ask() as connection:
            # From the devices to their few jobs: a render's own may be a million.
            told = connection.execute(select(workers.c.name, workers.c.jobs))
            at = read_progress(told)
            for some in _pieces({job for _, job in at}):
                running = select(jobs.c.id, jobs.c.render_id, jobs.c.index, jobs.c.worker).where(
                    jobs.c.id.in_(some), jobs.c.state == State.RUNNING
                )
                for row in connection.execute(running):
                    if row.render_id in ids and (row.worker, row.id) in at:
                        shares[row.render_id][row._mapping["index"]] = round(at[row.worker, row.id], 3)
        return shares


def _pieces(ids: Collection[Any]) -> Iterator[list[Any]]:
    ordered = sorted(ids)
    return (ordered[start : start + _AT_ONCE] for start in range(0, len(ordered), _AT_ONCE))
