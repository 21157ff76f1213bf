"""Settings on which several processes must agree: each notes at its start what it was started with."""

from sqlalchemy import Connection, select

from storage.database.connection import Database, database_now, transaction
from storage.database.upsert import insert_on_conflict
from storage.database.webhook_tables import noted_settings


class NotedSettings:
    """What each kind of process was started with last."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @transaction
    def note(self, connection: Connection, process: str, name: str, value: str) -> None:
        """Note what a process was started with. Idempotent."""
        told = {"value": value, "noted_at": database_now()}
        noted = insert_on_conflict(connection, noted_settings).values(process=process, name=name, **told)
        keys = [noted_settings.c.process, noted_settings.c.name]
        connection.execute(noted.on_conflict_do_update(index_elements=keys, set_=told))

    def others(self, process: str, name: str, value: str) -> dict[str, str]:
        """Return the other processes that were last started with another value, and with which."""
        statement = select(noted_settings.c.process, noted_settings.c.value).where(
            noted_settings.c.process != process, noted_settings.c.name == name, noted_settings.c.value != value
        )
        with self.database.read() as connection:
            return {row.process: row.value for row in connection.execute(statement)}
