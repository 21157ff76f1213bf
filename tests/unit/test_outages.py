"""Waiting for a service that is away."""

import threading

import pytest

from storage.errors import InvalidInput, ObjectStoreProblem
from worker.serving.outages import OutageRetry


def test_an_action_is_repeated_until_the_service_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.serving.outages._FIRST_PAUSE_SECONDS", 0.001)
    failures = [ObjectStoreProblem("away")] * 3

    def action() -> str:
        if failures:
            raise failures.pop()
        return "stored"

    assert OutageRetry(threading.Event())(action, what="store") == "stored"
    assert failures == []


def test_a_process_that_stops_waits_no_longer() -> None:
    stopping = threading.Event()
    stopping.set()

    def action() -> None:
        raise ObjectStoreProblem("away")

    with pytest.raises(ObjectStoreProblem):
        OutageRetry(stopping)(action, what="store")


def test_what_waiting_cannot_mend_is_raised_at_once() -> None:
    def action() -> None:
        raise InvalidInput("no such thing")

    with pytest.raises(InvalidInput):
        OutageRetry(threading.Event())(action, what="store")
