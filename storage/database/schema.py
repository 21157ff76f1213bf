"""The schema's version: upgrading it, and refusing to work on one of another version."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from storage.database.connection import Database
from storage.errors import SchemaMismatch

#: An arbitrary number that all migrators share, for PostgreSQL's advisory lock.
_MIGRATOR_LOCK = 0x6661726D


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the tables to this version; the revisions before and after. Idempotent, one migrator at a time.

    Raises SchemaMismatch if the database is of a newer version of the farm.
    """
    with _migrations() as migrations, database.write() as connection:
        # SQLite's transactions are exclusive already.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATOR_LOCK})
        before = _revision(connection)
        migrations.refuse_unknown(database, before)
        if before != migrations.head:
            migrations.config.attributes["connection"] = connection
            command.upgrade(migrations.config, "head")
        return before, migrations.head


def check(database: Database) -> None:
    """Raises SchemaMismatch unless the tables are exactly of this version; DatabaseProblem if away."""
    with database.read() as connection:
        found = _revision(connection)
    with _migrations() as migrations:
        migrations.refuse_unknown(database, found)
        if found != migrations.head:
            state = (
                "has no tables yet" if found is None else f"is of version {found}, this farm needs {migrations.head}"
            )
            raise SchemaMismatch(f"database {database.shown} {state}; run `farm db upgrade`")


@dataclass(frozen=True)
class _Migrations:
    config: Config
    known: frozenset[str]
    head: str

    def refuse_unknown(self, database: Database, found: str | None) -> None:
        if found is not None and found not in self.known:
            raise SchemaMismatch(
                f"database {database.shown} is of version {found}, which this farm does not know; "
                "install the newer farm that made it"
            )


@contextmanager
def _migrations() -> Iterator[_Migrations]:
    with as_file(files("storage.database").joinpath("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        # Newest first; there is one line of revisions, no branches.
        revisions = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()]
        yield _Migrations(config=config, known=frozenset(revisions), head=revisions[0])


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
