"""The farm's own secrets, made on first use: all processes sign with the same ones."""

import base64
import secrets

from sqlalchemy import Connection, select

from storage.database.connection import Database, transaction
from storage.database.tables import signing_secrets
from storage.database.upsert import insert_on_conflict

_BYTES = 32


class SigningSecrets:
    """Secrets by name."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, name: str) -> str:
        """Return 32 random bytes as base64, always the same for a name."""
        statement = select(signing_secrets.c.secret).where(signing_secrets.c.name == name)
        with self.database.ask() as connection:
            found: str | None = connection.execute(statement).scalar()
        if found is not None:
            return found
        self._make(name)
        with self.database.ask() as connection:
            # Made by this process or by one that was faster.
            return str(connection.execute(statement).scalar_one())

    @transaction
    def _make(self, connection: Connection, name: str) -> None:
        made = base64.b64encode(secrets.token_bytes(_BYTES)).decode()
        connection.execute(
            insert_on_conflict(connection, signing_secrets).values(name=name, secret=made).on_conflict_do_nothing()
        )
