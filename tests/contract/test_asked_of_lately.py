"""What is asked of the last minutes is answered from those, however much was ever made (PostgreSQL)."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event

from storage.access.keys import Limits
from storage.access.quotas import Quotas
from storage.database.connection import Database
from storage.fleet.fault_log import FaultLog
from storage.fleet.idleness import idle_shares
from storage.fleet.quarantines import _incidents
from storage.jobs.orphans import _due
from storage.renders.device_time import device_time
from storage.renders.measures import Measures
from storage.renders.views import Views

LIMITS = Limits(per_minute=10)


def _incidents_of(database: Database) -> object:
    with database.read() as connection:
        return _incidents(connection, "w")


def _orphans_due(database: Database) -> object:
    with database.read() as connection:
        return connection.execute(_due()).all()


#: Column → who asks of it.
ASKED: dict[str, tuple[str, Callable[[Database], object]]] = {
    "limits of a key": ("created_at", lambda database: Quotas(database).used("k", LIMITS)),
    "a request that is sent again": (
        "created_at",
        lambda database: Views(database).latest_of("ann", "x" * 64, within_seconds=60),
    ),
    "what was made lately": ("finished_at", lambda database: Measures(database).made_lately(within_seconds=60)),
    "stages": ("finished_at", lambda database: Measures(database).stages(within_seconds=60)),
    "device time": ("finished_at", lambda database: device_time(database, within_seconds=60)),
    "idle workers": ("finished_at", lambda database: idle_shares(database, within_seconds=60)),
    "faults": ("at", lambda database: FaultLog(database).counts(within_seconds=60)),
    "a worker's faults": ("at", _incidents_of),
    "orphans": ("due_at", _orphans_due),
}


class Plans:
    """The plans of what is asked, as they are for tables of any size."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._asking = False

    def explain(self, _: Connection, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        if self._asking or not statement.lstrip().startswith("SELECT") or "set_config" in statement:
            return
        self._asking = True
        with psycopg.ClientCursor(cursor.connection) as aside:
            for setting in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"):
                aside.execute(f"SET LOCAL {setting} = off")
            aside.execute("EXPLAIN " + aside.mogrify(statement, parameters))
            self.told.append("\n".join(row[0] for row in aside.fetchall()))
        self._asking = False


@pytest.fixture
def plans(postgres: str) -> Iterator[tuple[Database, Plans]]:
    plans = Plans()
    with closing(Database(postgres)) as database:
        event.listen(database.engine, "before_cursor_execute", plans.explain)
        yield database, plans


@pytest.mark.parametrize(("column", "ask"), ASKED.values(), ids=ASKED)
def test_what_was_made_before_is_not_read(
    plans: tuple[Database, Plans], column: str, ask: Callable[[Database], object]
) -> None:
    database, told = plans
    ask(database)
    assert told.told
    # A condition of an index, and not one that each of the key's, owner's or worker's rows is tried by.
    assert re.search(rf"Index Cond: .*\b{column} [<>]", "\n".join(told.told)), told.told
