"""How all renders stand that may change: a few statements for whoever follows the whole farm, however long its past."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, select

from storage.database.connection import Database, database_now
from storage.database.tables import renders
from storage.renders.filters import on_device

#: Of more unfinished renders, those that are on a device and those that came lately are followed.
MOST = 10_000
#: One that came and ended between two looks is found by when it came; a transaction that accepts it takes its time.
_LATELY_SECONDS = 10.0


class Standing(NamedTuple):
    """What may change of a render; compared whole, and made by the thousand."""

    owner: str
    priority: int
    total: int
    done: int
    failed: int
    cancelled: int
    held: bool
    #: One of its pictures is on a device.
    running: bool
    finished: bool
    #: The number of its last event; 0: none was recorded.
    events: int


@dataclass(frozen=True, kw_only=True)
class Standings:
    """How renders stood at a moment of the database's clock, by id."""

    at: float
    renders: Mapping[str, Standing]


class RenderStandings:
    """Reads how those renders stand that are unfinished, or came lately."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self, *, since: float | None = None) -> Standings:
        """Return how they stand; `since`: the moment of the look before, after which others may have come."""
        unfinished = _standings().where(renders.c.finished_at.is_(None)).limit(MOST)
        found: dict[str, Standing] = {}
        with self._database.ask() as connection:
            at = float(connection.execute(select(database_now())).scalar_one())
            came = renders.c.created_at > (at if since is None else since) - _LATELY_SECONDS
            parts = [unfinished, _standings().where(came).order_by(renders.c.created_at.desc()).limit(MOST)]
            while parts:
                rows = connection.execute(parts.pop(0)).all()
                found |= {row[0]: Standing(*row[1:]) for row in rows}
                if len(rows) == MOST and len(parts) == 1:
                    parts.append(_standings().where(on_device()))
        return Standings(at=at, renders=found)


def _standings() -> Select[Any]:
    columns = (renders.c.owner, renders.c.priority, renders.c.total, renders.c.done, renders.c.failed)
    state = (renders.c.cancelled, renders.c.held, on_device(), renders.c.finished_at.is_not(None), renders.c.events)
    return select(renders.c.id, *columns, *state).where(~renders.c.purging)
