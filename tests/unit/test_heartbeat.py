"""The worker's own row: what it says, and what it says about what it waits for."""

import threading
from collections.abc import Callable, Iterator

import pytest

from storage.database import tables
from storage.database.connection import Database
from storage.errors import ObjectStoreProblem, WorkerNameTaken
from storage.fleet.fault_log import FaultLog
from storage.fleet.workers import NewWorker, Workers, WorkerView
from storage.rules.faults import Fault
from tests.servers import eventually
from worker.serving.heartbeat import Heartbeat, PictureRate
from worker.serving.outages import OutageRetry


@pytest.fixture
def database(sqlite: str) -> Iterator[Database]:
    database = Database(sqlite)
    yield database
    database.close()


def unwelcome(error: WorkerNameTaken) -> None:
    raise AssertionError(error)


def beating(database: Database, on_name_taken: Callable[[WorkerNameTaken], None] = unwelcome) -> Heartbeat:
    workers = Workers(database, run="first")

    def announce() -> None:
        workers.announce(NewWorker(name="w", host="h", device="cpu:0", device_name="cpu", pid=1, models=["tiny"]))

    heartbeat = Heartbeat(
        workers, FaultLog(database), name="w", seconds=0.1, announce=announce, on_name_taken=on_name_taken
    )
    heartbeat.start()
    assert Workers(database).all(), "it announces itself before it does anything"
    return heartbeat


def row(database: Database) -> WorkerView:
    [worker] = Workers(database).all()
    return worker


def test_the_row_tells_the_batch_in_hand(database: Database) -> None:
    heartbeat = beating(database)
    heartbeat.now(state="rendering", model="tiny", batch=5)
    eventually(lambda: row(database).state == "rendering", "the row follows")
    assert (row(database).model, row(database).batch) == ("tiny", 5)


def test_a_row_that_was_lost_is_there_again_with_the_next_beat(database: Database) -> None:
    beating(database)
    Workers(database, run="first").forget("w")
    eventually(lambda: Workers(database).all(), "it announced itself again")


def test_a_worker_whose_name_was_given_away_while_it_was_silent_is_told(database: Database) -> None:
    told: list[WorkerNameTaken] = []
    beating(database, told.append)
    with database.write() as connection:
        connection.execute(tables.workers.update().values(run="second"))
    eventually(lambda: told, "it is told")
    assert "the name w is taken by process 1 on h" in str(told[0])


def test_what_it_waits_for_is_told_while_it_waits_and_written_down_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.serving.outages._FIRST_PAUSE_SECONDS", 0.01)
    patiently = OutageRetry(threading.Event(), beating(database))
    back = threading.Event()

    def store() -> None:
        if not back.is_set():
            raise ObjectStoreProblem("objects in s3://pictures: access is denied")

    waiting = [threading.Thread(target=lambda: patiently(store, what="store pictures")) for _ in range(3)]
    for thread in waiting:
        thread.start()
    eventually(lambda: row(database).trouble, "the row tells of it")
    assert row(database).trouble == "cannot store pictures: objects in s3://pictures: access is denied"
    eventually(lambda: FaultLog(database).latest(limit=10), "it is written down")
    back.set()
    for thread in waiting:
        thread.join()
    eventually(lambda: row(database).trouble is None, "the row tells of nothing")
    [fault] = FaultLog(database).latest(limit=10)
    assert (fault.fault, fault.worker, fault.job) == (Fault.STORE_AWAY, "w", None)


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = PictureRate()
    assert pace.per_second(at=0) == 0
    pace.add(60, at=10)
    pace.add(60, at=50)
    assert pace.per_second(at=60) == 2
    assert pace.per_second(at=71) == 1
    assert pace.per_second(at=200) == 0
