"""What forked processes find made: the tables of an SQLite file, and a server that nobody keeps waiting."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from storage.database.connection import Database
from storage.database.partial_indexes import complete_metadata
from storage.database.schema import check, revisions
from tests.contract.test_schema import described
from tests.forks import Starter
from tests.shared_servers import Name
from tests.sqlite_tables import migrate_by_heart


def test_the_tables_that_are_known_by_heart_are_those_that_the_migrations_make(sqlite: str, empty_sqlite: str) -> None:
    with closing(Database(sqlite)) as migrated, closing(Database(empty_sqlite)) as by_heart:
        with by_heart.write() as connection:
            migrate_by_heart(connection, revisions()[-1])
        check(by_heart)
        for table in complete_metadata().tables:
            assert described(by_heart, table) == described(migrated, table)


def test_a_database_that_has_tables_is_migrated_by_the_migrations(empty_sqlite: str) -> None:
    with closing(Database(empty_sqlite)) as database:
        with database.write() as connection:
            migrate_by_heart(connection, revisions()[0])
        with database.write() as connection:
            migrate_by_heart(connection, revisions()[-1])
        check(database)


def test_whoever_orders_no_process_keeps_nobody_waiting_who_does(
    tmp_path: Path, shared_server: Callable[[Name], str]
) -> None:
    address = shared_server("forks")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent, closing(_connected(address)) as gone:
        silent.connect(address)
        gone.close()

        ended = Starter(lambda _: address).ran(["-c", "import sys; print('here'); sys.exit(3)"], folder=tmp_path)

    assert (ended.returncode, ended.stdout) == (3, "here\n"), ended.stderr


def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    return connection
