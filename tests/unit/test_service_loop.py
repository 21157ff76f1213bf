"""The loop of a service."""

import threading

import pytest

from storage.errors import DatabaseProblem, ObjectStoreOverwrites, SchemaMismatch
from storage.process import service_loop
from storage.process.service_loop import once_available, run_until_stopped


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


# -- until services are there ----------------------------------------------------------------------------------


def test_what_needs_a_service_starts_once_that_answers(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_loop, "_PAUSE_SECONDS", 0.0)
    problems = [DatabaseProblem("away")] * 3

    def start() -> str:
        if problems:
            raise problems.pop()
        return "started"

    assert once_available(start, doing="count", stopping=threading.Event()) == "started"
    [said] = caplog.records
    assert said.message == "service unavailable, waiting until it answers"


@pytest.mark.parametrize("problem", [SchemaMismatch("of another version"), ObjectStoreOverwrites("replaces")])
def test_what_waiting_does_not_mend_ends_it(problem: Exception) -> None:
    def start() -> None:
        raise problem

    with pytest.raises(type(problem)):
        once_available(start, doing="count", stopping=threading.Event())


def test_who_is_to_stop_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_loop, "_PAUSE_SECONDS", 0.0)
    stopping = threading.Event()

    def start() -> None:
        stopping.set()
        raise DatabaseProblem("away")

    assert once_available(start, doing="count", stopping=stopping) is None
