"""The workers' own rows, on both databases."""

import pytest
from sqlalchemy import update

from storage.database.connection import Database, database_now
from storage.database.tables import workers
from storage.fleet.workers import NewWorker, WorkerActivity, Workers


@pytest.fixture
def crew(database: Database) -> Workers:
    return Workers(database)


def announce(crew: Workers, name: str, *, models: list[str] | None = None, pid: int = 1) -> None:
    crew.announce(
        NewWorker(
            name=name, host="gpu-1", device="cuda:0", device_name="A100 😀", pid=pid, models=models or ["tiny", "other"]
        )
    )


def test_a_worker_that_announced_itself_is_listed_as_it_is(crew: Workers) -> None:
    announce(crew, "b")
    announce(crew, "a")
    first, second = crew.all()
    assert (first.name, second.name) == ("a", "b")
    assert (first.host, first.device, first.device_name, first.pid) == ("gpu-1", "cuda:0", "A100 😀", 1)
    assert (first.models, first.state, first.model, first.pictures) == (["tiny", "other"], "idle", None, 0)
    assert 0 <= first.silent_for < 5


def test_a_restarted_worker_replaces_its_row(crew: Workers) -> None:
    announce(crew, "a", pid=1)
    crew.beat("a", WorkerActivity(state="rendering", model="tiny", pictures=7))
    announce(crew, "a", pid=2)
    [worker] = crew.all()
    assert (worker.pid, worker.state, worker.pictures) == (2, "idle", 0)


def test_a_beat_tells_what_a_worker_does_and_ends_its_silence(crew: Workers) -> None:
    announce(crew, "a")
    fall_silent(crew, "a", seconds=100)
    assert crew.all()[0].silent_for == pytest.approx(100, abs=5)
    crew.beat("a", WorkerActivity(state="rendering", model="tiny", pictures=3))
    [worker] = crew.all()
    assert (worker.state, worker.model, worker.pictures) == ("rendering", "tiny", 3)
    assert worker.silent_for < 5


def test_a_worker_that_stopped_is_forgotten_and_only_that_one(crew: Workers) -> None:
    announce(crew, "a")
    announce(crew, "b")
    crew.forget("a")
    crew.forget("a")
    assert [worker.name for worker in crew.all()] == ["b"]


def test_a_beat_of_an_unknown_worker_makes_no_row(crew: Workers) -> None:
    crew.beat("nobody", WorkerActivity(state="idle", model=None, pictures=0))
    assert crew.all() == []


def test_a_model_is_served_by_those_who_serve_it_and_were_heard_of_lately(crew: Workers) -> None:
    announce(crew, "serving", models=["tiny"])
    announce(crew, "silent", models=["tiny"])
    announce(crew, "elsewhere", models=["other"])
    fall_silent(crew, "silent", seconds=60)
    assert [worker.name for worker in crew.serving("tiny")] == ["serving"]
    assert [worker.name for worker in crew.serving("tiny", within_seconds=90)] == ["serving", "silent"]
    assert crew.serving("unknown") == []


def fall_silent(crew: Workers, name: str, *, seconds: float) -> None:
    with crew.database.write() as connection:
        connection.execute(update(workers).where(workers.c.name == name).values(seen_at=database_now() - seconds))
