"""A claimer that is stopped at any point of its claim holds up nobody, however long what it claims is (PostgreSQL)."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

import storage.jobs.claim
from storage.database.connection import Database
from storage.errors import DatabaseProblem
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission, Webhook
from storage.rules.states import Priority
from tests.contract.renders import complete, lapse_leases, pictures
from tests.servers import eventually

#: Far more than the buffers of a socket hold, once there are some of them.
LONG = {"prompt": "\N{CAT FACE}" * 10_000, "negative_prompt": "\N{DOG FACE}" * 10_000}
WEBHOOK = Webhook(url="https://example.com", events=("job.done",))


class Frozen:
    """Connections that are stopped as they have sent their nth statement: nobody reads its answer."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.met, self.wakes = threading.Event(), threading.Event()

    def attach(self, connection: Any, _record: object) -> None:
        frozen = self

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, query: Any, params: Any = None, **told: Any) -> Any:
                frozen.stop_at(self.connection, query, params)
                return super().execute(query, params, **told)

        connection.cursor_factory = Cursor

    def stop_at(self, connection: psycopg.Connection[Any], query: Any, params: Any) -> None:
        self._left -= 1
        if self._left == 0:
            with psycopg.ClientCursor(connection) as told:
                whole = told.mogrify(query, params).encode()
            connection.pgconn.send_query(whole)
            connection.pgconn.flush()
            self.met.set()
            self.wakes.wait()
            connection.close()
            raise psycopg.OperationalError("it was stopped for too long")


@contextmanager
def claiming_until(nth: int, postgres: str) -> Iterator[bool]:
    """Have somebody claim who is stopped at the nth statement; whether there was one."""
    frozen = Frozen(nth)
    with closing(Database(postgres, connections=1)) as elsewhere, ThreadPoolExecutor(1) as thread:
        # What a connection says of itself when it is made is no part of a claim.
        event.listen(elsewhere.engine, "connect", frozen.attach)
        claiming = thread.submit(partial(Jobs(elsewhere).claim, model="tiny", worker="frozen", limit=8))
        try:
            eventually(lambda: frozen.met.is_set() or claiming.done(), "the claim is stopped, or made")
            yield frozen.met.is_set()
        finally:
            frozen.wakes.set()
            if frozen.met.is_set():
                with pytest.raises(DatabaseProblem):
                    claiming.result()
            else:
                claiming.result()


def come_back(farm: Jobs, indexes: list[int]) -> bool:
    """Give back whatever leases have run out, and complete what waits; whether that were all."""
    lapse_leases(farm.database)
    farm.recover_lapsed()
    while (found := farm.claim(model="tiny", worker="w2", limit=8)) is not None:
        complete(farm, found)
        indexes += [job.index for job in found.jobs]
    return len(indexes) >= 16


@pytest.mark.parametrize("webhook", [None, WEBHOOK], ids=["at once", "step by step"])
def test_a_claimer_that_is_stopped_anywhere_in_a_long_claim_holds_up_nobody(
    postgres: str, monkeypatch: pytest.MonkeyPatch, webhook: Webhook | None
) -> None:
    monkeypatch.setattr(storage.jobs.claim, "_FROZEN", "100ms")
    specs = pictures(16, **LONG)
    with closing(Database(postgres)) as database:
        farm = Jobs(database)
        for nth in count(1):
            told = Submission(owner="ann", priority=Priority.NORMAL, watched=True, webhook=webhook)
            farm.submit(specs, told, quanta={"tiny": 8})
            with claiming_until(nth, postgres) as stopped:
                # Of the same render, whose events both count.
                behind = eventually(partial(farm.claim, model="tiny", worker="w2", limit=8), "another one claims")
                assert behind is not None
                assert {len(job.spec.prompt) for job in behind.jobs} == {10_000}
                complete(farm, behind)
                if not stopped:
                    break
                back = [job.index for job in behind.jobs]
                eventually(lambda: come_back(farm, back), "what the stopped one took comes back")  # noqa: B023
                assert sorted(back) == [*range(16)]
    assert nth > 1


def test_what_is_deleted_before_its_claimer_has_read_it_is_no_part_of_the_claim(database: Database) -> None:
    farm = Jobs(database)
    submitted = Submission(owner="ann", priority=Priority.NORMAL)
    farm.submit(pictures(8, **LONG), submitted, quanta={"tiny": 8})
    rows = farm._claim(model="tiny", worker="w1", limit=8)
    assert rows is not None
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE id = (SELECT min(id) FROM jobs)")
    found = storage.jobs.claim.claim_of(database, rows)
    assert found is not None
    assert [job.index for job in found.jobs] == [*range(1, 8)]
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    assert storage.jobs.claim.claim_of(database, rows) is None
