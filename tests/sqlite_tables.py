"""The tables that all migrations make of an empty SQLite file, written down once for whoever needs many such files."""

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Connection, inspect

from storage.database import schema
from storage.database.connection import Database

_migrate = schema.migrate


@cache
def _made() -> tuple[bytes, tuple[str, ...]]:
    """A file with tables and no rows, as the migrations leave it, and the statements that make the same ones."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "farm.db")
        with closing(Database(f"sqlite:///{file}")) as database:
            schema.upgrade(database)
        with closing(sqlite3.connect(file)) as connection:
            dumped = [one for one in connection.iterdump() if one not in ("BEGIN TRANSACTION;", "COMMIT;")]
        return file.read_bytes(), tuple(dumped)


def tables_as_bytes() -> bytes:
    """An SQLite file with tables and no rows: all migrations take longer than most tests."""
    return _made()[0]


def migrate_by_heart(connection: Connection, to: str) -> None:
    """Take the place of `storage.database.schema.migrate`: repeat what the migrations make of an empty SQLite file."""
    empty = connection.dialect.name == "sqlite" and not inspect(connection).get_table_names()
    if not empty or to != schema.revisions()[-1]:
        _migrate(connection, to)
        return
    for statement in _made()[1]:
        connection.exec_driver_sql(statement)


def know_tables_by_heart() -> None:
    """Have this process, and all that are forked from it, migrate empty SQLite files so from now on."""
    _made()
    schema.migrate = migrate_by_heart
