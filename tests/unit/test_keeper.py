"""Child processes that are kept running: real ones, on a clock of the test's own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from storage.errors import InvalidInput
from storage.process.keeper import Keeper
from tests.servers import eventually

_LIVES = "import sys, time; print('up', flush=True); time.sleep(600)"
_IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _LIVES
_HAS_A_CHILD = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(child.pid, flush=True); {then}"
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def output(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "output").open("w+b") as file:
        yield file


def keeper(program: str, clock: Clock, output: IO[bytes]) -> Keeper:
    return Keeper("child", [sys.executable, "-c", program], clock=clock, output=output)


def said(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode()


def tend_until_dead(child: Keeper) -> None:
    eventually(lambda: not child.alive, "it has ended")
    child.tend()
    assert child.pid is None


def pauses(child: Keeper, clock: Clock, times: int) -> Iterator[float]:
    """Let it die young again and again; how long each next start is put off."""
    child.tend()
    for _ in range(times):
        tend_until_dead(child)
        died_at = clock.now
        while child.pid is None:
            clock.now += 0.5
            child.tend()
        yield clock.now - died_at


def test_what_dies_young_is_started_again_later_each_time_up_to_a_minute(clock: Clock, output: IO[bytes]) -> None:
    child = keeper("raise SystemExit(1)", clock, output)
    assert list(pauses(child, clock, 7)) == [2, 4, 8, 16, 32, 60, 60]
    tend_until_dead(child)


def test_what_dies_after_it_has_lived_is_started_again_at_once_and_its_past_is_forgotten(
    clock: Clock, output: IO[bytes]
) -> None:
    child = keeper("raise SystemExit(1)", clock, output)
    assert list(pauses(child, clock, 3)) == [2, 4, 8]
    clock.now += 20
    tend_until_dead(child)
    child.tend()
    assert child.pid is not None
    tend_until_dead(child)
    clock.now += 2
    child.tend()
    assert child.pid is not None
    tend_until_dead(child)


def test_what_ends_because_of_wrong_settings_is_not_started_again(clock: Clock, output: IO[bytes]) -> None:
    child = keeper("raise SystemExit(2)", clock, output)
    child.tend()
    eventually(lambda: not child.alive, "it has ended")
    with pytest.raises(InvalidInput, match="^the child cannot start"):
        child.tend()


def test_when_it_dies_what_it_started_dies_too_before_anybody_is_told(clock: Clock, output: IO[bytes]) -> None:
    alive: list[bool] = []
    child = Keeper(
        "child",
        [sys.executable, "-c", _HAS_A_CHILD.format(then="raise SystemExit(1)")],
        clock=clock,
        output=output,
        on_death=lambda: alive.append(running(int(said(output)))),
    )
    child.tend()
    tend_until_dead(child)
    assert len(alive) == 1
    eventually(lambda: not running(int(said(output))), "its child has ended")


def test_stopping_asks_first_and_kills_what_does_not_listen(clock: Clock, output: IO[bytes]) -> None:
    child = keeper(_IGNORES_SIGTERM, clock, output)
    child.tend()
    eventually(lambda: "up" in said(output), "it runs")
    child.stop(seconds=0.1)
    assert not child.alive


def test_what_is_killed_takes_what_it_started_along(clock: Clock, output: IO[bytes]) -> None:
    child = keeper(_HAS_A_CHILD.format(then="child.wait()"), clock, output)
    child.tend()
    eventually(lambda: said(output), "it has started its own")
    child.kill()
    assert not child.alive
    eventually(lambda: not running(int(said(output))), "its child has ended")


def test_what_was_never_started_needs_no_stopping(clock: Clock, output: IO[bytes]) -> None:
    child = keeper(_LIVES, clock, output)
    child.ask_to_stop()
    child.stop(seconds=1)
    child.kill()
    assert (child.pid, child.alive) == (None, False)


def running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
