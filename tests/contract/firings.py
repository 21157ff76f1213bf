"""Firings in several hands, for the suites of schedules."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select

from scheduler.cron.firing import ScheduleRunner
from scheduler.intake.order import Order
from storage.database.connection import Database
from storage.database.tables import renders
from storage.errors import ObjectStoreProblem
from storage.jobs.values import NewJob, Submission
from storage.objects.store import ObjectStore
from storage.renders.firings import ClaimedFiring
from storage.renders.schedules import FiringOutcome, Schedule
from storage.rules.states import Priority
from storage.spec.picture import Request
from tests.contract.schedules import REGISTRY, TWO_AT_NIGHT, ByTurns
from tests.servers import eventually


class Gate:
    """An object store that hangs for some schedules' prompts until it is opened."""

    def __init__(self, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened = threading.Event()
        self._copy = objects.copy
        self._keys: set[str] = set()
        self.waiting = 0
        self.fails = False
        monkeypatch.setattr(objects, "copy", self._through)

    def hang(self, *hanging: Schedule) -> None:
        self._keys |= {f"inputs/{str(one.order['rows']).partition(':')[2]}" for one in hanging}

    def open(self) -> None:
        self._opened.set()

    def _through(self, key: str, file: Any) -> None:
        if key in self._keys:
            self.waiting += 1
            assert self._opened.wait(120)
            if self.fails:
                raise ObjectStoreProblem("objects: read timeout")
        self._copy(key, file)


@contextmanager
def accepting(runner: ByTurns) -> Iterator[ScheduleRunner]:
    """Threads that accept, and a clock that calls them, as in a scheduler process."""
    before = {*threading.enumerate()}
    runner.acceptors.start()
    try:
        yield ScheduleRunner(runner.schedules, runner.firings, on_taken=runner.acceptors.call, clock=runner.clock)
    finally:
        runner.acceptors.close()
        eventually(lambda: not ({*threading.enumerate()} - before), "its threads have ended")


def prompts(text: str, pictures: int = 1) -> Order:
    return Order(prompts=(text,), pictures_each=pictures)


def taken(runner: ByTurns, schedule: Schedule, *, long: bool = False) -> None:
    assert runner.firings.take(schedule, {TWO_AT_NIGHT: FiringOutcome.TAKEN}, long=long) == 1


def claimed(runner: ByTurns, *, long: bool = False) -> ClaimedFiring:
    found = runner.firings.claim(long=long)
    assert found is not None
    return found


def accept(runner: ByTurns, firing: ClaimedFiring, *, pictures: int = 2) -> str | None:
    """Accept as one does whose pictures are all specified."""
    request = Request.parse({"prompt": "a"})
    jobs = [NewJob(spec=REGISTRY.resolve(request, seed=seed)) for seed in range(pictures)]
    return runner.firings.accept(firing, jobs, Submission(owner="ann", priority=Priority.NORMAL), {"tiny": 8})


def rendered(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(renders)).scalar_one()
