"""Questions to the queue beside the device: when they are asked, and whose answers are waited for."""

import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import pytest

from storage.rules.states import Priority
from tests.unit.slot_stage import MODEL, Queue, job
from worker.serving import claims_ahead
from worker.serving.claims_ahead import ClaimsAhead, SlotRoom

#: Two slots that bulk pictures have.
TAKEN = SlotRoom(free=0, less_urgent={Priority.INTERACTIVE: 2, Priority.NORMAL: 2, Priority.BULK: 0})


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def ahead(queue: Queue) -> ClaimsAhead:
    return ClaimsAhead(queue, worker="w", served=["m"])


def test_what_comes_during_a_call_is_found_before_its_end(queue: Queue, ahead: ClaimsAhead) -> None:
    ahead.look(MODEL, TAKEN, count_to=0, call_seconds=600)
    assert ahead._asked is not None
    assert not futures.wait([ahead._asked], timeout=0.02).done
    queue.add(job(1, 5, Priority.INTERACTIVE))
    # The call ended long before it was to: that is the moment to look.
    answer = ahead.answer() or ahead.answer(wait=True)
    assert answer is not None
    assert answer.claim is not None
    assert [one.id for one in answer.claim.jobs] == [1]


def test_a_look_beside_a_short_call_is_answered_during_it(ahead: ClaimsAhead) -> None:
    ahead.look(MODEL, TAKEN, count_to=0, call_seconds=0.01)
    assert ahead._asked is not None
    futures.wait([ahead._asked])
    assert ahead.answer() is not None


@pytest.mark.parametrize(("priority", "waits"), [(Priority.INTERACTIVE, True), (Priority.NORMAL, False)])
def test_the_device_waits_for_the_claim_of_an_urgent_picture(
    queue: Queue, ahead: ClaimsAhead, monkeypatch: pytest.MonkeyPatch, priority: Priority, *, waits: bool
) -> None:
    queue.add(job(1, 5, priority))
    claiming, go_on, wait = threading.Event(), threading.Event(), futures.wait

    def held_up(_: object) -> None:
        claiming.set()
        go_on.wait(60)

    def waited_for(asked: Any, timeout: float) -> Any:
        assert timeout < 1
        go_on.set()
        return wait(asked, 60)

    queue.claiming = held_up
    monkeypatch.setattr(claims_ahead, "futures", type("", (), {"wait": staticmethod(waited_for)}))
    ahead.look(MODEL, TAKEN, count_to=0, call_seconds=0)
    assert claiming.wait(60)
    answer = ahead.answer()
    go_on.set()
    assert (answer is not None) is waits
    assert (answer or ahead.answer(wait=True)) is not None


def test_a_claim_that_hangs_holds_the_device_up_once(
    queue: Queue, ahead: ClaimsAhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.add(job(1, 5, Priority.INTERACTIVE))
    claiming, go_on, waited, wait = threading.Event(), threading.Event(), [], futures.wait

    def hangs(_: object) -> None:
        claiming.set()
        go_on.wait(60)

    def in_vain(asked: Any, timeout: float) -> Any:
        waited.append(timeout)
        return wait(asked, 0)

    queue.claiming = hangs
    monkeypatch.setattr(claims_ahead, "futures", type("", (), {"wait": staticmethod(in_vain)}))
    ahead.look(MODEL, TAKEN, count_to=0, call_seconds=0)
    assert claiming.wait(60)
    assert [ahead.answer() for _ in range(3)] == [None] * 3
    assert len(waited) == 1
    go_on.set()
    assert ahead.answer(wait=True) is not None


@pytest.mark.parametrize(("takes", "pause"), [(0.0004, 0.05), (0.0015, 0.075), (0.3, 0.1)])
def test_looks_take_a_fiftieth_of_the_time_and_come_ten_times_a_second_at_least(
    queue: Queue, ahead: ClaimsAhead, monkeypatch: pytest.MonkeyPatch, takes: float, pause: float
) -> None:
    now = [1000.0]
    asked = queue.best_waiting

    def slowly(models: Sequence[str]) -> Mapping[str, Priority]:
        now[0] += takes
        return asked(models)

    monkeypatch.setattr(queue, "best_waiting", slowly)
    monkeypatch.setattr(claims_ahead, "time", SimpleNamespace(monotonic=lambda: now[0]))
    began = now[0]
    ahead.look(MODEL, TAKEN, count_to=0, call_seconds=0)
    assert ahead.answer(wait=True) is not None
    now[0] = began + 0.9 * pause
    assert not ahead.is_time_to_look(0)
    now[0] = began + 1.1 * pause
    assert ahead.is_time_to_look(0)
