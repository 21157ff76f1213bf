"""The workers' own rows, on both databases."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import select, update

from storage.database.connection import Database, database_now
from storage.database.tables import workers
from storage.errors import WorkerNameTaken
from storage.fleet.slots import SlotCounts
from storage.fleet.workers import JobProgress, NewWorker, WorkerActivity, Workers, read_progress
from storage.process.run_id import run_id
from tests.contract.renders import at_once


@pytest.fixture
def crew(database: Database) -> Workers:
    return Workers(database)


IDLE = WorkerActivity(state="idle", model=None, pictures=0)


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
    assert crew.all()[0].loaded == []
    crew.beat("a", WorkerActivity(state="rendering", model="tiny", pictures=3, loaded=("other", "tiny")))
    [worker] = crew.all()
    assert (worker.state, worker.model, worker.pictures) == ("rendering", "tiny", 3)
    assert worker.loaded == ["other", "tiny"]
    assert worker.silent_for < 5


def test_a_worker_that_stopped_is_forgotten_and_only_that_one(crew: Workers) -> None:
    announce(crew, "a")
    announce(crew, "b")
    crew.forget("a")
    crew.forget("a")
    assert [worker.name for worker in crew.all()] == ["b"]


def test_a_beat_of_an_unknown_worker_makes_no_row(crew: Workers) -> None:
    assert not crew.beat("nobody", IDLE)
    assert crew.all() == []


def test_two_workers_of_one_name_do_not_undo_each_other(database: Database) -> None:
    first, second = Workers(database, run="here:1:1"), Workers(database, run="there:1:1")
    announce(first, "a", pid=1)
    with pytest.raises(WorkerNameTaken, match="the name a is taken by process 1 on gpu-1, heard of 0 s ago"):
        announce(second, "a", pid=2)
    assert not second.beat("a", replace(IDLE, pictures=5))
    second.progress(name="a", jobs=[JobProgress(1, 1, 2)])
    second.forget("a")
    [row] = first.all()
    assert (row.pid, row.pictures) == (1, 0)
    assert second.last_heard_of("a") is not None
    assert first.last_heard_of("a") is None

    fall_silent(first, "a", seconds=31)
    announce(second, "a", pid=2)
    assert not first.beat("a", IDLE)
    assert [worker.pid for worker in first.all()] == [2]


@pytest.mark.parametrize("before", [False, True], ids=["free", "of a silent one"])
def test_of_workers_that_ask_for_a_name_at_the_same_moment_one_gets_it(database: Database, before: bool) -> None:
    crews = [Workers(database, run=f"machine-{n}:1:1") for n in range(8)]

    def ask(crew: Workers) -> bool:
        try:
            announce(crew, "a")
        except WorkerNameTaken:
            return False
        return True

    for _ in range(3):
        for crew in crews:
            crew.forget("a")
        if before:
            announce(crews[0], "a")
            fall_silent(crews[0], "a", seconds=31)
        got = at_once(*(partial(ask, crew) for crew in crews[1:]))
        assert got.count(True) == 1
        assert [crew.beat("a", IDLE) for crew in crews[1:]] == got


def test_the_name_of_a_process_that_has_ended_is_free_at_once(database: Database) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from storage.process.run_id import run_id; print(run_id())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    announce(Workers(database, run=ended), "a", pid=1)
    announce(Workers(database, run=run_id()), "a", pid=2)
    with pytest.raises(WorkerNameTaken):
        announce(Workers(database, run="elsewhere:1:1"), "a", pid=3)


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


def test_a_worker_tells_what_its_slots_do_and_how_far_each_job_is(crew: Workers) -> None:
    announce(crew, "a")
    assert crew.all()[0].slots is None
    counts = SlotCounts(
        limit=8, used=7, aside=1, ahead=3, joined=20, stepped_aside=2, ticks=100, rows_used=1300, rows_computed=1600
    )
    crew.beat("a", replace(IDLE, slots=counts))
    crew.progress(name="a", jobs=[JobProgress(4, 5, 20), JobProgress(9, 30, 40)])
    assert crew.all()[0].slots == counts
    with crew.database.read() as connection:
        told = connection.execute(select(workers.c.name, workers.c.jobs)).all()
    # As farms wrote it before LoRAs were called apart.
    old = {"limit": 8, "used": 7, "aside": 1, "ahead": 3, "joined": 20, "stepped_aside": 2, "ticks": 100}
    old |= {"rows_used": 1300, "rows_computed": 1600}
    assert SlotCounts.read(json.dumps(old)) == counts
    assert read_progress(told) == {("a", 4): 0.25, ("a", 9): 0.75}
