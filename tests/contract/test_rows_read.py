"""How many rows PostgreSQL reads: what a worker does costs the same whatever else waits, and when it connected."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any, LiteralString

import pytest

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from tests.contract.renders import claim, complete, pictures, submit


class CountedCalls(Database):
    """Calls functions as `Database` does, and counts the rows of jobs that they read."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=1)
        self.rows_read: list[int] = []

    def call(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        with self.write() as connection:
            session: Any = connection.connection.driver_connection
            before = _rows_read(session)
            found = list(session.execute(statement, parameters).fetchall())
            self.rows_read.append(_rows_read(session) - before)
            return found


def _rows_read(session: Any) -> int:
    """Rows of jobs that a session has read and not yet added to what all have read."""
    [(read,)] = session.execute(
        "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables "
        "WHERE relname = 'jobs'"
    ).fetchall()
    return int(read)


@pytest.mark.parametrize("waiting", [0, 400], ids=["connected while nothing waited", "connected while others waited"])
def test_a_batch_is_claimed_and_completed_by_reading_few_rows_but_its_own(postgres: str, waiting: int) -> None:
    with closing(Database(postgres)) as others, closing(CountedCalls(postgres)) as database:
        farm = Jobs(database)
        submit(farm, pictures(8, model="other"))
        if waiting:
            submit(Jobs(others), pictures(waiting))
        # Whose plans are made now, and kept.
        assert not complete(farm, claim(farm, model="other"))
        submit(Jobs(others), pictures(400))
        database.rows_read.clear()
        assert not complete(farm, claim(farm))
        claimed, completed = database.rows_read
        assert claimed <= 50
        assert completed <= 50
