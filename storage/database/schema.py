"""The schema's version: upgrading it, and refusing to work on one of another version."""

import re
from functools import cache
from importlib.resources import as_file, files

from sqlalchemy import Connection, inspect, text

from storage.database.connection import Database
from storage.database.pooler import refuse_statement_pooling
from storage.errors import SchemaMismatch

#: An arbitrary number that all migrators share, for PostgreSQL's advisory lock.
_MIGRATOR_LOCK = 0x6661726D
_MIGRATION_FILE = re.compile(r"r(\d{4})_\w+\.py")


def upgrade(database: Database) -> tuple[str | None, str]:
    """Upgrade the tables to this version; the revisions before and after. Idempotent, one migrator at a time.

    Raises SchemaMismatch if the database belongs to a newer version of the farm.
    """
    head = revisions()[-1]
    with database.write() as connection:
        refuse_statement_pooling(connection, database.shown)
        # SQLite's transactions are exclusive already.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATOR_LOCK})
        before = _revision(connection)
        _refuse_unknown(database, before)
        if before != head:
            migrate(connection, head)
        return before, head


def check(database: Database) -> None:
    """Raise SchemaMismatch unless the tables have exactly this version.

    Raises DatabaseProblem without a connection, and behind a pooler that tears transactions apart.
    """
    with database.read() as connection:
        refuse_statement_pooling(connection, database.shown)
        found = _revision(connection)
    _refuse_unknown(database, found)
    head = revisions()[-1]
    if found != head:
        state = "has no tables yet" if found is None else f"has schema version {found}, this farm needs {head}"
        raise SchemaMismatch(f"database {database.shown} {state}; run `farm db upgrade`")


@cache
def revisions() -> tuple[str, ...]:
    """Return this version's revisions, oldest first, as the migrations' files are named: Alembic need not load them."""
    folder = files("storage.database").joinpath("migrations", "versions")
    found = (_MIGRATION_FILE.fullmatch(file.name) for file in folder.iterdir())
    return tuple(sorted(match[1] for match in found if match))


def migrate(connection: Connection, to: str) -> None:
    """Run the migrations up to a revision, in the caller's transaction."""
    # Loaded here: Alembic takes a quarter of a second, and a database that is up to date never needs it.
    from alembic import command
    from alembic.config import Config

    with as_file(files("storage.database").joinpath("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _refuse_unknown(database: Database, found: str | None) -> None:
    if found is not None and found not in revisions():
        raise SchemaMismatch(
            f"database {database.shown} has schema version {found}, which this farm does not know; "
            "install the newer farm that upgraded it"
        )


def _revision(connection: Connection) -> str | None:
    # The table is Alembic's own; before the first migration there is none.
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
