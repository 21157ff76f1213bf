"""What the scheduler process does when its database was away."""

import threading
from typing import Any

import pytest

from scheduler.background.sweep import Sweep
from storage.errors import BrokerProblem, DatabaseProblem, ServiceProblem
from storage.rules.faults import Fault
from storage.spec.registry import parse_registry

REGISTRY = parse_registry('[models.tiny]\nkind = "simulated"', where="here")


class Rounds(Sweep):
    """A sweep whose rounds go as told, each a second of a clock of its own: a problem, or None."""

    def __init__(self, problems: list[ServiceProblem | None], clock: list[float]) -> None:
        self.noted: list[Fault] = []
        log: Any = self
        super().__init__(
            jobs=log,
            faults=log,
            tickets=log,
            registry=REGISTRY,
            every_seconds=0.001,
            renew_seconds=10,
            lease_seconds=30,
            clock=lambda: clock[0],
        )
        self._problems, self._clock = problems, clock
        self.spared: list[bool] = []
        self.stopping = threading.Event()

    def note_outage(self, *, fault: Fault, worker: str | None, message: str) -> None:
        assert worker is None
        assert message
        self.noted.append(fault)

    def run_once(self, *, spare_leases: bool = False) -> None:
        self._clock[0] += 1
        problem = self._problems.pop(0)
        if not self._problems:
            self.stopping.set()
        if problem is not None:
            raise problem
        self.spared.append(spare_leases)


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def swept(problems: list[ServiceProblem | None], clock: list[float]) -> Rounds:
    rounds = Rounds(problems, clock)
    rounds.run(rounds.stopping)
    return rounds


def test_after_a_long_outage_of_the_database_workers_may_renew_before_leases_are_judged(clock: list[float]) -> None:
    rounds = swept([None, *[DatabaseProblem("away")] * 40, *[None] * 30], clock)
    assert rounds.spared[0] is False
    assert rounds.spared[1:21] == [True] * 20
    assert rounds.spared[-5:] == [False] * 5
    assert rounds.noted == [Fault.DATABASE_AWAY]


def test_a_short_outage_delays_nobody(clock: list[float]) -> None:
    rounds = swept([None, *[DatabaseProblem("away"), None] * 20], clock)
    assert not any(rounds.spared)


def test_without_a_broker_leases_are_judged_all_the_same(clock: list[float]) -> None:
    rounds = swept([None, *[BrokerProblem("away")] * 40, None, None], clock)
    assert not any(rounds.spared)
    assert rounds.noted == [Fault.BROKER_AWAY]


def test_an_outage_is_logged_once_a_minute(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    swept([*[DatabaseProblem("away")] * 150, None], clock)
    assert len(caplog.records) == 3
