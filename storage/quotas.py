"""How much of a key's limits is used."""

from dataclasses import dataclass

from sqlalchemy import func, select

from storage.database import Database, database_now
from storage.tables import renders


@dataclass(frozen=True, kw_only=True)
class Used:
    unfinished: int
    accepted_last_day: int
    requests_last_minute: int


class Quotas:
    """Counted from renders: nothing to reset, nothing to drift."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def used(self, key_id: str) -> Used:
        left = renders.c.total - renders.c.done - renders.c.failed - renders.c.cancelled
        theirs = renders.c.key_id == key_id
        with self._database.read() as connection:

            def scalar(what: object, *where: object) -> int:
                return int(connection.execute(select(what).where(theirs, *where)).scalar() or 0)  # type: ignore[call-overload]

            return Used(
                unfinished=scalar(func.sum(left), renders.c.finished_at.is_(None)),
                accepted_last_day=scalar(func.sum(renders.c.total), renders.c.created_at > database_now() - 86400),
                requests_last_minute=scalar(func.count(), renders.c.created_at > database_now() - 60),
            )
