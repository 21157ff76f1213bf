"""Transactions, the database's clock, and its errors in the farm's words, on both databases."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Barrier, Timer
from typing import Any

import pytest
from sqlalchemy import Connection, Select, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB

import storage.database.connection
from storage.database.connection import Database, database_now, transaction
from storage.database.tables import renders
from storage.errors import DatabaseBusy, DatabaseProblem, InvalidInput
from tests.contract.renders import at_once
from tests.servers import PostgresServer, eventually, free_port


def add_render(connection: Connection, render_id: str) -> None:
    values = {"id": render_id, "owner": "ann", "priority": 1, "total": 1, "created_at": database_now()}
    connection.execute(insert(renders).values(values))


def render_ids(database: Database) -> list[str]:
    with database.read() as connection:
        return [*connection.execute(select(renders.c.id).order_by(renders.c.id)).scalars()]


# -- the clock -------------------------------------------------------------------------------------------------


def test_the_clock_counts_seconds_since_1970(database: Database) -> None:
    before = time.time()
    with database.read() as connection:
        now = connection.execute(select(database_now())).scalar_one()
    assert before - 0.01 <= now <= time.time() + 0.01


def test_the_clock_goes_on_within_a_transaction(database: Database) -> None:
    # A lease that is given late in a long transaction must not begin at its start.
    with database.write() as connection:
        start = connection.execute(select(database_now())).scalar_one()
        later = select(database_now() > start)
        assert eventually(lambda: connection.execute(later).scalar_one(), "the database's clock has moved")


# -- text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("statement", [select(literal("a\0b")), select(literal('{"a": "\\u0000"}').cast(JSONB))])
def test_text_that_cannot_be_stored_is_the_callers_mistake_and_no_outage(
    database: Database, statement: Select[Any]
) -> None:
    with pytest.raises(InvalidInput, match="the character NUL"), database.read() as connection:
        connection.execute(statement)


def test_half_of_a_surrogate_pair_is_refused_as_input(database: Database) -> None:
    with pytest.raises(InvalidInput, match="half of a surrogate pair"), database.read() as connection:
        connection.execute(select(renders.c.id).where(renders.c.name == "\ud800"))


# -- transactions ----------------------------------------------------------------------------------------------


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    with database.write() as connection:
        add_render(connection, "kept")

    def fail_midway() -> None:
        with database.write() as connection:
            add_render(connection, "lost")
            raise KeyError("a mistake")

    with pytest.raises(KeyError):
        fail_midway()
    assert render_ids(database) == ["kept"]


def test_a_reader_is_not_held_up_by_a_writer_and_sees_only_what_is_committed(database: Database) -> None:
    with database.write() as connection:
        add_render(connection, "new")
        assert render_ids(database) == []
    assert render_ids(database) == ["new"]


def test_a_writer_is_not_held_up_by_a_reader(database: Database) -> None:
    with database.read() as reader:
        assert reader.execute(select(renders.c.id)).all() == []
        with database.write() as writer:
            add_render(writer, "new")
    assert render_ids(database) == ["new"]


def test_writers_at_once_all_succeed(database: Database) -> None:
    # A write transaction that began as a read would fail at once on SQLite, whatever its timeout.
    def read_then_write(name: str) -> None:
        with database.write() as connection:
            connection.execute(select(renders.c.id)).all()
            add_render(connection, name)

    names = [f"writer-{n}" for n in range(8)]
    at_once(*[partial(read_then_write, name) for name in names])
    assert render_ids(database) == names


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_threads_that_wait_to_write_leave_connections_for_readers(database: Database) -> None:
    # Two hundred clients submit to an API: each would hold a connection while it waits for SQLite's one writer.
    def write(name: str) -> None:
        with database.write() as connection:
            add_render(connection, name)

    names = [f"writer-{n:02}" for n in range(40)]
    with ThreadPoolExecutor(len(names)) as threads:
        with database.write() as connection:
            add_render(connection, "first")
            waiting = [threads.submit(write, name) for name in names]
            assert eventually(lambda: all(one.running() for one in waiting), "all of them wait")
            assert render_ids(database) == []
        for one in waiting:
            one.result()
    assert render_ids(database) == ["first", *names]


def test_a_new_sqlite_database_may_be_opened_while_another_opens_it(empty_sqlite: str, tmp_path: Path) -> None:
    # As when `farm up` starts its processes for the first time: changing to WAL does not wait for locks by itself.
    with closing(sqlite3.connect(tmp_path / "empty.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = Timer(0.1, lambda: other.execute("COMMIT"))
        done.start()
        database = Database(empty_sqlite)
        try:
            with database.write() as connection:
                connection.execute(text("CREATE TABLE something (id INTEGER)"))
        finally:
            done.join()
            database.close()


def test_a_foreign_key_is_kept(database: Database) -> None:
    with pytest.raises(DatabaseProblem, match="(?i)foreign key"), database.write() as connection:
        connection.execute(
            text("""
                INSERT INTO jobs (render_id, "index", owner, model, priority, round, batch_key, seed, spec, state)
                VALUES ('nowhere', 0, 'ann', 'tiny', 1, 0, 'k', 0, '{}', 'queued')
            """)
        )


class Mover:
    """A method that is one transaction, and deadlocks with itself when it is first run in two threads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._tried: set[str] = set()
        self._both_hold_one = Barrier(2, timeout=60)

    @transaction
    def touch(self, connection: Connection, first: str, second: str) -> str:
        connection.execute(update(renders).where(renders.c.id == first).values(done=renders.c.done + 1))
        if first not in self._tried:
            self._tried.add(first)
            self._both_hold_one.wait()
        connection.execute(update(renders).where(renders.c.id == second).values(done=renders.c.done + 1))
        return first


def test_a_transaction_undone_by_a_deadlock_is_run_again(postgres: str) -> None:
    database = Database(postgres)
    with database.write() as connection:
        add_render(connection, "a")
        add_render(connection, "b")
    mover = Mover(database)
    assert at_once(partial(mover.touch, "a", "b"), partial(mover.touch, "b", "a")) == ["a", "b"]
    with database.read() as connection:
        assert [*connection.execute(select(renders.c.done)).scalars()] == [2, 2]
    database.close()


# -- errors ----------------------------------------------------------------------------------------------------


def test_a_lock_that_was_waited_for_too_long_is_told_as_busy(postgres: str) -> None:
    database = Database(postgres)
    with database.write() as holder:
        holder.execute(text("LOCK TABLE renders"))
        impatient = text("SET LOCAL lock_timeout = '10ms'; SELECT id FROM renders")
        with pytest.raises(DatabaseBusy), database.write() as connection:
            connection.execute(impatient)
    database.close()


def test_a_connection_that_died_while_idle_is_replaced(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.database.connection, "_SURELY_ALIVE_SECONDS", 0.0)
    with closing(Database(postgres)) as database, closing(Database(postgres)) as other:
        assert render_ids(database) == []
        with other.write() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
        assert render_ids(database) == []


def test_a_connection_that_was_in_use_just_now_is_not_asked_first(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.database.connection, "_SURELY_ALIVE_SECONDS", 60.0)
    with closing(Database(postgres)) as database:
        asked: list[object] = []
        monkeypatch.setattr(database.engine.dialect, "do_ping", asked.append)
        assert render_ids(database) == render_ids(database) == []
    assert asked == []


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://farm:secret@127.0.0.1:{free_port()}/farm",
        "sqlite:////nonexistent/folder/farm.db",
        "postgresql+psycopg://farm:secret@/farm?host=/nonexistent",
    ],
    ids=["no server", "no folder", "no socket"],
)
def test_a_database_that_is_away_is_named_without_its_password(url: str) -> None:
    database = Database(url)
    with pytest.raises(DatabaseProblem, match="^database ") as problem, database.read():
        pass
    message = str(problem.value)
    assert "secret" not in message
    assert "\n" not in message
    assert url.rpartition("/")[2] in message
    database.close()


def test_a_database_that_does_not_exist_is_named(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url("nowhere"))
    with pytest.raises(DatabaseProblem, match="nowhere"), database.read():
        pass
    database.close()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "", "oracle+none://db", "postgresql+psycopg://farm:secret@db:port/farm", "postgresql+psycopg://[::1"],
)
def test_an_address_that_cannot_be_understood_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseProblem, match="^database ") as problem:
        Database(url)
    assert "secret" not in str(problem.value)


# -- questions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_question_is_one_statement_and_no_transaction_stays_open(database: Database) -> None:
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    with database.ask() as asking, database.read() as reading, database.read() as looking:
        pids = [one.execute(text("SELECT pg_backend_pid()")).scalar_one() for one in (asking, reading)]
        states = [looking.execute(state, {"pid": pid}).scalar_one() for pid in pids]
    assert states == ["idle", "idle in transaction"]
    # The connection is used again, and is one for transactions then.
    with database.engine.connect() as connection:
        add_render(connection, "gone")
    assert render_ids(database) == []


def test_a_question_that_is_wrong_is_told_in_the_farms_words(database: Database) -> None:
    with pytest.raises(DatabaseProblem, match="nowhere"), database.ask() as connection:
        connection.execute(text("SELECT 1 FROM nowhere"))
