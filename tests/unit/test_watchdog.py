"""When a silent device counts as hung."""

import pytest

from worker.serving.watchdog import Watchdog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [1000.0]
    monkeypatch.setattr("worker.serving.watchdog.time.monotonic", lambda: now[0])
    return now


def test_an_unknown_kind_of_batch_has_the_time_that_the_settings_give(clock: list[float]) -> None:
    dog = Watchdog(stall_seconds=300)
    dog.begin("sd 8")
    clock[0] += 299
    assert not dog.stalled()
    clock[0] += 2
    assert dog.stalled()
    assert dog.silent_for() == 301


def test_a_known_kind_has_ten_times_its_longest_silence(clock: list[float]) -> None:
    dog = Watchdog(stall_seconds=300)
    dog.begin("sd 8")
    for silence in (1, 4, 2):
        clock[0] += silence
        dog.step()
    dog.end()
    dog.begin("sd 8")
    clock[0] += 39
    assert not dog.stalled()
    dog.step()
    clock[0] += 41
    assert dog.stalled()


def test_fast_steps_leave_a_busy_machine_some_time(clock: list[float]) -> None:
    dog = Watchdog(stall_seconds=300)
    dog.begin("quick")
    clock[0] += 0.01
    dog.end()
    dog.begin("quick")
    clock[0] += 14
    assert not dog.stalled()
    clock[0] += 2
    assert dog.stalled()


def test_a_batch_that_did_not_end_well_teaches_nothing(clock: list[float]) -> None:
    dog = Watchdog(stall_seconds=300)
    dog.begin("sd 8")
    clock[0] += 1
    dog.step()
    dog.begin("sd 8")
    clock[0] += 200
    assert not dog.stalled()


def test_loading_may_take_its_own_time(clock: list[float]) -> None:
    dog = Watchdog(stall_seconds=10)
    dog.expect_silence(1800)
    clock[0] += 1700
    assert not dog.stalled()
    dog.begin("sd 8")
    clock[0] += 11
    assert dog.stalled()


def test_a_device_that_has_nothing_to_do_or_waits_for_an_input_is_not_hung(clock: list[float]) -> None:
    dog = Watchdog(stall_seconds=10)
    dog.begin("sd 8")
    with dog.waiting():
        clock[0] += 1000
        assert not dog.stalled()
    assert not dog.stalled()
    clock[0] += 11
    assert dog.stalled()
    dog.end()
    clock[0] += 1000
    assert not dog.stalled()
