"""Processes of the farm that are started again when they end, as systemd would (`Restart=always`)."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.events import Events
from tests.forks import Starter
from tests.integration.farm import child_of, device_processes
from tests.servers import stopped_at_the_end

_RESTART_SECONDS = 1.0
#: One that ends younger found a service away at its start, says so and leaves; systemd would try again, as we do.
_GROWN_UP_SECONDS = 15.0


@dataclass(kw_only=True)
class StoredOrder:
    """A process, its successors, and whether it ended without being asked."""

    name: str
    module: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    events: Events
    starter: Starter
    #: Held by the fault that plays with it.
    taken: threading.Lock = field(default_factory=threading.Lock)
    #: Exit codes when it is asked to end.
    ends_with: Collection[int] = (0,)
    #: What it ended with though nobody had killed it or asked it to end.
    unasked: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    _guard: threading.RLock = field(default_factory=threading.RLock)
    _stack: ExitStack = field(default_factory=ExitStack)
    _process: subprocess.Popen[bytes] | None = None
    _asked: bool = False
    _started_at: float = 0.0
    _start_at: float = 0.0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.{len(self.pids)}.log"

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tend(self) -> None:
        """Start it if it does not run and may."""
        with self._guard:
            if self.is_up:
                return
            if self._process is not None and not self._asked:
                self._note_the_end(self._process.returncode)
            if time.monotonic() >= self._start_at:
                self._start()

    def end(self, *, down: float) -> None:
        """Kill it with all that it started; it is started again after `down` seconds."""
        with self._guard:
            self._asked = True
            if self.is_up:
                self._kill()
            self._start_at = time.monotonic() + down

    def ask_to_end(self, *, within: float) -> int | None:
        """SIGTERM, and wait; the exit code, None if it did not run or had to be killed. Down until `may_start`."""
        with self._guard:
            self._asked, self._start_at = True, float("inf")
            if not self.is_up:
                return None
            self.process.terminate()
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self._kill()
            return None

    def may_start(self) -> None:
        """Let the keeper start it again after `ask_to_end`."""
        with self._guard:
            self._start_at = 0.0

    def close(self) -> None:
        if self.is_up:
            self._kill()
        self._stack.close()

    def _kill(self) -> None:
        """As a power cut: with everything below it."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def _start(self) -> None:
        self._stack.close()
        self.pids.append(0)
        command, env = [sys.executable, "-m", *self.module], os.environ | self.environment
        with self.log.open("wb") as output:
            self._process = self.starter.start(command, env=env, stdout=output, stderr=output)
        self._stack.enter_context(stopped_at_the_end(self._process))
        self.pids[-1] = self._process.pid
        self._started_at = time.monotonic()
        self._asked = False

    def _note_the_end(self, code: int) -> None:
        self._asked = True
        self._start_at = time.monotonic() + _RESTART_SECONDS
        age = time.monotonic() - self._started_at
        said = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        last = said[-1]
        self.events.write(self.name, "ended by itself", code=code, age=round(age, 1), last=last)
        # One that says a single word has waited for a service that froze in the middle of its start.
        if age >= _GROWN_UP_SECONDS and len(said) > 1:
            self.unasked.append(f"{self.name} ended by itself after {age:.0f} s with exit code {code}: {last}")


@dataclass(kw_only=True)
class Machine(StoredOrder):
    """`farm-worker` with one simulated device."""

    #: Seconds by which its clock is wrong, read by libfaketime; None without that library.
    clock: Path | None = None

    @property
    def worker(self) -> str:
        """The name of its worker in rows."""
        return f"simulated-0@{self.name}"

    def parent(self) -> Any:
        """The Celery worker, a psutil.Process; None while there is none."""
        try:
            return device_processes(self.process).get("simulated:0")
        except (psutil.Error, KeyError):  # it comes or goes just now
            return None

    def device(self) -> Any:
        """The process that owns the device, a psutil.Process; None while there is none."""
        try:
            parent = self.parent()
            return None if parent is None else child_of(parent)
        except (psutil.Error, StopIteration):
            return None

    def close(self) -> None:
        super().close()
        # libfaketime leaves these behind where it is killed.
        for pid in self.pids if self.clock is not None else []:
            for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
                Path("/dev/shm", name).unlink(missing_ok=True)


def strays(home: str, kept: Sequence[StoredOrder]) -> list[str]:
    """Processes of this farm that no kept process has started, or that are there though none is up."""
    known = {pid for one in kept for pid in _family(one)}
    return [
        f"pid {process.pid}: {' '.join(process.info['cmdline'] or [])[:100]}"
        for process in psutil.process_iter(["cmdline", "status"])
        if process.pid not in known and process.info["status"] != psutil.STATUS_ZOMBIE and _home(process) == home
    ]


def _family(kept: StoredOrder) -> Iterator[int]:
    if kept.is_up:
        yield kept.process.pid
        try:
            yield from (child.pid for child in psutil.Process(kept.process.pid).children(recursive=True))
        except psutil.Error:
            return


def _home(process: psutil.Process) -> str | None:
    try:
        home: str | None = process.environ().get("FARM_HOME")
    except psutil.Error:  # it has just ended, or is another user's
        return None
    return home if process.pid != os.getpid() else None


def faketime() -> Path | None:
    """The library that shifts a process's clock, from the wheel `libfaketime` or Debian's package; None without."""
    places = [
        *(Path(folder) / "libfaketime/vendor/libfaketime/src" for folder in sys.path),
        *Path("/usr/lib").glob("*/faketime"),
    ]
    return next((found for place in places if (found := place / "libfaketime.so.1").exists()), None)


def with_clock(library: Path, clock: Path) -> dict[str, str]:
    """The environment of a process whose wall clock goes wrong by what `clock` says; the monotonic one stays right."""
    clock.write_text("+0\n")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        # Its lock for files' times would be held for ever by a process killed within.
        "NO_FAKE_STAT": "1",
    }
