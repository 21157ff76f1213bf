"""The loop of a service."""

import threading

import pytest

from storage.errors import DatabaseProblem
from storage.process.service_loop import run_until_stopped


def run(rounds: list[Exception | None], *, seconds_each: float = 1.0) -> int:
    """Run a service whose rounds go as told, on a clock of its own; how many rounds there were."""
    stopping, now = threading.Event(), [0.0]
    done: list[Exception | None] = []

    def run_once() -> None:
        now[0] += seconds_each
        problem = rounds[len(done)]
        done.append(problem)
        if len(done) == len(rounds):
            stopping.set()
        if problem is not None:
            raise problem

    run_until_stopped(run_once, doing="count", every_seconds=0.0001, stopping=stopping, clock=lambda: now[0])
    return len(done)


def test_a_service_runs_until_it_is_asked_to_stop() -> None:
    assert run([None, None, None]) == 3


def test_a_service_that_is_asked_before_it_starts_does_nothing() -> None:
    stopping = threading.Event()
    stopping.set()
    run_until_stopped(pytest.fail, doing="count", every_seconds=1, stopping=stopping)


def test_a_service_waits_for_what_is_away_and_says_so_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    assert run([None, *[DatabaseProblem("away")] * 150, None]) == 152
    assert [(vars(record)["action"], str(vars(record)["error"])) for record in caplog.records] == [
        ("count", "away")
    ] * 3


def test_whatever_else_goes_wrong_ends_the_service() -> None:
    with pytest.raises(ZeroDivisionError):
        run([None, ZeroDivisionError("a fault of the program"), None])
