"""The schema's version: upgrading it, and refusing to work on one of another version."""

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from storage.database import Database
from storage.errors import SchemaMismatch

#: An arbitrary number that all migrators share, for PostgreSQL's advisory lock.
_MIGRATOR_LOCK = 0x6661726D


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the tables to this version; the revisions before and after. Idempotent, one migrator at a time.

    Raises SchemaMismatch if the database is of a newer version of the farm.
    """
    with as_file(files("storage").joinpath("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder))
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        assert head is not None
        with database.write() as connection:
            # SQLite's transactions are exclusive already.
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATOR_LOCK})
            before = _revision(connection)
            _refuse_unknown(database, before, {revision.revision for revision in script.walk_revisions()})
            if before != head:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    return before, head


def check(database: Database) -> None:
    """Raises SchemaMismatch unless the tables are exactly of this version; DatabaseProblem if away."""
    with as_file(files("storage").joinpath("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder))
        script = ScriptDirectory.from_config(config)
        known = {revision.revision for revision in script.walk_revisions()}
        head = script.get_current_head()
    with database.read() as connection:
        found = _revision(connection)
    _refuse_unknown(database, found, known)
    if found != head:
        state = "has no tables yet" if found is None else f"is of version {found}, this farm needs {head}"
        raise SchemaMismatch(f"database {database.shown} {state}; run `farm db upgrade`")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown(database: Database, found: str | None, known: set[str]) -> None:
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"database {database.shown} is of version {found}, which this farm does not know; "
            "install the newer farm that made it"
        )
