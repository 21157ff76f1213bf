"""The parent kills a child that has stopped speaking, and no other."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import update

from storage.database.connection import Database, database_now
from storage.database.tables import workers
from storage.fleet.workers import NewWorker, Workers
from worker.process.child_watch import ChildWatch


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def crew(sqlite: str) -> Iterator[Workers]:
    database = Database(sqlite)
    yield Workers(database, run="ours")
    database.close()


def announce(crew: Workers, pid: int, *, silent_for: float) -> None:
    crew.announce(NewWorker(name="w", host="h", device="cpu:0", device_name="cpu", pid=pid, models=["tiny"]))
    with crew.database.write() as connection:
        connection.execute(update(workers).values(seen_at=database_now() - silent_for))


def looks(crew: Workers, children: list[int], n: int) -> None:
    overseer = ChildWatch(crew, name="w", silent_seconds=60, children=lambda: children)
    for _ in range(n):
        overseer.look()


def test_a_child_that_is_silent_at_three_looks_is_killed(crew: Workers, child: subprocess.Popen[bytes]) -> None:
    announce(crew, child.pid, silent_for=100)
    looks(crew, [child.pid], 2)
    assert child.poll() is None
    looks(crew, [child.pid], 3)
    assert child.wait(60) == -9


def test_a_child_that_speaks_lives(crew: Workers, child: subprocess.Popen[bytes]) -> None:
    announce(crew, child.pid, silent_for=10)
    looks(crew, [child.pid], 5)
    assert child.poll() is None


def test_a_child_that_has_not_announced_itself_yet_is_not_its_predecessor(
    crew: Workers, child: subprocess.Popen[bytes]
) -> None:
    announce(crew, child.pid, silent_for=100)
    looks(crew, [child.pid + 1], 5)
    assert child.poll() is None


def test_a_child_whose_name_another_machine_took_while_it_hung_is_killed(
    crew: Workers, child: subprocess.Popen[bytes]
) -> None:
    """It never speaks again under that name, and who has it now does: nobody missed it."""
    announce(crew, child.pid, silent_for=40)
    announce(Workers(crew.database, run="theirs"), 1, silent_for=0)
    looks(crew, [child.pid], 3)
    assert child.wait(60) == -9


def test_what_another_machine_has_left_under_a_name_is_no_reason_to_kill(
    crew: Workers, child: subprocess.Popen[bytes]
) -> None:
    # Even where the numbers of processes are the same, as in containers.
    announce(Workers(crew.database, run="theirs"), child.pid, silent_for=100)
    looks(crew, [child.pid], 5)
    assert child.poll() is None
