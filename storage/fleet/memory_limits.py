"""How many pictures fit on a device: learned by running out of memory, shared by all workers with the same hardware."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import memory_limits
from storage.database.upsert import insert_on_conflict

#: Then larger batches are tried again: another program may have held the memory.
_FORGOTTEN_AFTER_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a device's memory has to hold: pictures of one model and size, on one kind of hardware."""

    model: str
    #: A hash of its entry and its files: see `storage.spec.file_marks`.
    entry: str
    width: int
    height: int
    device_name: str


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    #: Maximum number of pictures in one pipeline call.
    pictures: int
    #: Only with VAE slicing and tiling, which save memory.
    frugal: bool = False


class MemoryLimits:
    """Learns limits and looks them up."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def of(self, load: Load) -> MemoryLimit | None:
        """Return the limit that was learned recently; None if there is none."""
        with self.database.read() as connection:
            row = connection.execute(
                select(memory_limits.c.pictures, memory_limits.c.frugal).where(
                    *(memory_limits.c[name] == value for name, value in load.__dict__.items()),
                    memory_limits.c.learned_at > database_now() - _FORGOTTEN_AFTER_SECONDS,
                )
            ).first()
        return None if row is None else MemoryLimit(pictures=row.pictures, frugal=row.frugal)

    @transaction
    def learn(self, connection: Connection, load: Load, limit: MemoryLimit) -> None:
        """Remember a limit for all workers with this hardware, and forget what is too old. Idempotent."""
        connection.execute(
            delete(memory_limits).where(memory_limits.c.learned_at <= database_now() - _FORGOTTEN_AFTER_SECONDS)
        )
        values = {**load.__dict__, **limit.__dict__, "learned_at": database_now()}
        connection.execute(
            insert_on_conflict(connection, memory_limits)
            .values(**values)
            .on_conflict_do_update(
                index_elements=list(memory_limits.primary_key),
                set_={name: values[name] for name in ("pictures", "frugal", "learned_at")},
            )
        )
