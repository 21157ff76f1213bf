"""Workers of a CPU that start when the backlog is worth it: who calls, when, and who comes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from storage.jobs.values import Claim
from storage.process.keeper import Keeper
from storage.rules.states import Priority
from storage.spec.models import SimulatedModel
from worker.process.identity import CALL, THREADS, call_file, own_threads
from worker.process.reserves import Reserves
from worker.serving.help_call import HelpCall, worth_another

MODEL = SimulatedModel(alias="tiny", kind="simulated")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reserves(clock: Clock) -> Iterator[Reserves]:
    found = Reserves(clock=clock)
    folder = found.file.parent
    yield found
    found.close()
    assert not folder.exists()


def keepers(n: int) -> list[Keeper]:
    return [Keeper(f"cpu-{number}", ["true"]) for number in range(1, n + 1)]


def names(found: Sequence[Keeper]) -> list[str]:
    return [keeper.name for keeper in found]


# -- who comes -------------------------------------------------------------------------------------------------


def test_nobody_comes_uncalled(reserves: Reserves) -> None:
    reserves.keep(keepers(3), running=1)
    assert reserves.called() == []


def test_each_call_doubles_those_who_run_once_the_last_ones_had_time_to_begin(reserves: Reserves, clock: Clock) -> None:
    reserves.keep(keepers(6), running=1)
    reserves.file.touch()
    assert names(reserves.called()) == ["cpu-1"]
    clock.now += 9
    # The call stays: nobody counts the backlog while no further call would be heard.
    assert (reserves.called(), reserves.file.exists()) == ([], True)
    clock.now += 2
    assert (reserves.called(), reserves.file.exists()) == ([], False)
    assert reserves.called() == []
    reserves.file.touch()
    assert names(reserves.called()) == ["cpu-2", "cpu-3"]
    clock.now += 11
    reserves.called()
    reserves.file.touch()
    assert names(reserves.called()) == ["cpu-4", "cpu-5", "cpu-6"]
    clock.now += 100
    # Nobody is left: the call stays for good.
    assert (reserves.called(), reserves.file.exists()) == ([], True)


# -- who calls -------------------------------------------------------------------------------------------------


class Queue:
    """Jobs that wait, and how often they were counted."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self.counted = 0

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:
        assert (model, priority) == ("tiny", Priority.BULK)
        self.counted += 1
        return min(self._waiting, at_most)

    def claim(self, *, model: str, worker: str, limit: int) -> Claim | None: ...
    def complete(self, *_: object) -> dict[int, None]: ...  # type: ignore[empty-body]
    def recover(self, *_: object) -> dict[int, None]: ...  # type: ignore[empty-body]
    def best_waiting(self, *_: object) -> dict[str, Priority]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("waiting", "seconds", "start", "expected"),
    [
        *((0, 60, 5, False), (50, 0.15, 5, False), (66, 0.15, 5, False), (67, 0.15, 5, True), (1, 11, 5, True)),
        *((2000, 0.004, 5, False), (67, 0.15, 50, False), (700, 0.15, 50, True)),
    ],
)
def test_another_worker_is_worth_two_starts_of_work(waiting: int, seconds: float, start: float, expected: bool) -> None:
    assert worth_another(waiting, seconds, start_seconds=start) is expected


def test_a_worker_calls_once_and_counts_no_more(tmp_path: Path) -> None:
    queue, file = Queue(500), tmp_path / "call"
    call = HelpCall(queue, file, start_seconds=5)  # type: ignore[arg-type]
    call.claimed(MODEL, Priority.BULK)
    # Its pace is not known yet.
    assert (queue.counted, file.exists()) == (0, False)
    call.rendered(0, 60)
    call.rendered(8, 2)
    call.claimed(MODEL, Priority.BULK)
    assert (queue.counted, file.exists()) == (1, True)
    call.claimed(MODEL, Priority.BULK)
    assert queue.counted == 1


def test_few_pictures_call_nobody(tmp_path: Path) -> None:
    queue, file = Queue(10), tmp_path / "call"
    call = HelpCall(queue, file, start_seconds=5)  # type: ignore[arg-type]
    call.rendered(8, 2)
    call.claimed(MODEL, Priority.BULK)
    assert (queue.counted, file.exists()) == (1, False)


def test_where_nobody_would_come_nothing_is_counted(tmp_path: Path) -> None:
    queue = Queue(500)
    for file in (None, tmp_path / "gone" / "call"):
        call = HelpCall(queue, file, start_seconds=5)  # type: ignore[arg-type]
        call.rendered(8, 2)
        call.claimed(MODEL, Priority.BULK)
        assert file is None or not file.exists()
    assert queue.counted == 1


def test_the_supervisors_word_reaches_the_device_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "3")
    monkeypatch.setenv(CALL, "/run/call")
    assert (own_threads(), call_file()) == (3, Path("/run/call"))
    for name in (THREADS, CALL):
        os.environ[name] = ""
    assert (own_threads(), call_file()) == (None, None)


def test_renders_that_are_short_each_call_once_they_add_up(tmp_path: Path, clock: Clock) -> None:
    queue, file = Queue(10), tmp_path / "call"
    call = HelpCall(queue, file, start_seconds=5, clock=clock)  # type: ignore[arg-type]
    for _ in range(3):
        call.claimed(MODEL, Priority.BULK)
        call.rendered(8, 2)
    # 10 pictures of 0.25 s wait, and others have waited for 6 s.
    call.claimed(MODEL, Priority.BULK)
    assert not file.exists()
    call.rendered(8, 2)
    call.claimed(MODEL, Priority.BULK)
    assert file.exists()
    # Those who come have time to begin; then it is counted anew.
    call.rendered(8, 2)
    call.claimed(MODEL, Priority.BULK)
    file.unlink()
    call.claimed(MODEL, Priority.BULK)
    assert not file.exists()


def test_work_beside_which_nobody_waits_calls_nobody(tmp_path: Path) -> None:
    queue, file = Queue(10), tmp_path / "call"
    call = HelpCall(queue, file, start_seconds=5)  # type: ignore[arg-type]
    for _ in range(20):
        call.claimed(MODEL, None)
        call.rendered(8, 2)
    call.claimed(MODEL, Priority.BULK)
    assert not file.exists()


def test_what_others_waited_for_long_ago_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    queue, file = Queue(10), tmp_path / "call"
    call = HelpCall(queue, file, start_seconds=5, clock=clock)  # type: ignore[arg-type]
    for _ in range(5):
        call.rendered(8, 2)
        call.claimed(MODEL, Priority.BULK)
        clock.now += 601
    call.rendered(8, 2)
    call.claimed(MODEL, Priority.BULK)
    assert not file.exists()
