"""How many pictures a call of a model is best made for: learned on each kind of device, kept for the next worker."""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, delete, select

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import learned_limits
from storage.database.upsert import insert_on_conflict

#: Drivers, libraries and machines change in such a time.
_FORGOTTEN_AFTER_SECONDS = 28 * 86400.0


class LimitReason(StrEnum):
    """Why a worker makes calls of at most so many pictures."""

    #: The model's entry says so.
    REGISTRY = "registry"
    #: Nothing was learned yet.
    DEFAULT = "default"
    LEARNED = "learned"
    #: More or fewer are being tried.
    TRIAL = "trial"
    #: More did not fit.
    MEMORY = "memory"
    #: Each number would be compiled for minutes.
    COMPILED = "compiled"


@dataclass(frozen=True, kw_only=True)
class CallKind:
    """What the best number depends on."""

    model: str
    #: A hash of its entry and its files: see `storage.spec.file_marks`.
    entry: str
    width: int
    height: int
    #: With the number of threads, on a CPU.
    device_name: str


@dataclass(frozen=True, kw_only=True)
class LearnedLimit:
    pictures: int
    #: Whether more and fewer were tried.
    settled: bool
    #: Seconds since it was learned, by the database's clock.
    age: float = 0.0


class LearnedLimits:
    """Remembers limits and looks them up."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def of(self, kind: CallKind) -> LearnedLimit | None:
        """Return what was learned within the last weeks; None if nothing was."""
        age = (database_now() - learned_limits.c.learned_at).label("age")
        with self.database.read() as connection:
            row = connection.execute(
                select(learned_limits.c.pictures, learned_limits.c.settled, age).where(
                    *(learned_limits.c[name] == value for name, value in kind.__dict__.items()),
                    learned_limits.c.learned_at > database_now() - _FORGOTTEN_AFTER_SECONDS,
                )
            ).first()
        return None if row is None else LearnedLimit(pictures=row.pictures, settled=row.settled, age=row.age)

    @transaction
    def learn(self, connection: Connection, kind: CallKind, limit: LearnedLimit) -> None:
        """Remember a limit for all workers with this hardware, and forget what is too old. Idempotent."""
        connection.execute(
            delete(learned_limits).where(learned_limits.c.learned_at <= database_now() - _FORGOTTEN_AFTER_SECONDS)
        )
        changed = {"pictures": limit.pictures, "settled": limit.settled, "learned_at": database_now()}
        connection.execute(
            insert_on_conflict(connection, learned_limits)
            .values(**kind.__dict__, **changed)
            .on_conflict_do_update(index_elements=list(learned_limits.primary_key), set_=changed)
        )
