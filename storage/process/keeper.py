"""Keeping child processes running: what dies is started again, later each time that it dies young."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from storage.errors import InvalidInput
from storage.process import lifeline

log = logging.getLogger(__name__)

#: A process that lived this long starts again at once; one that dies young waits longer each time.
_YOUNG_SECONDS = 20.0
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 60.0
#: The exit code of the farm's commands for wrong settings or input.
_WRONG_INPUT = 2


class Keeper:
    """Keeps one process running, with whatever it starts in its session; for one thread.

    The process has to call `lifeline.stop_with_parent`, so that it ends with this one however this one ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
        on_death: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to keep a process; nothing is started yet.

        Args:
            output: where the process's output goes; None: to our standard error.
            on_death: called when the process has died by itself and its session is gone, before the next start.
        """
        self.name = name
        self._command = command
        self._environment = environment
        self._output = output
        self._on_death = on_death
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._pause = 0.0

    @property
    def pid(self) -> int | None:
        """None before the first start, and while the next one waits."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._process = lifeline.start_child(self._command, env=self._environment, output=self._output)
        self._started_at = self._clock()
        log.info("process started", extra={"child": self.name, "pid": self._process.pid})

    def tend(self) -> None:
        """Start the process if it is time to, and note its death; called every second or so.

        Raises InvalidInput if it ended because of wrong settings: starting it again would not change them.
        """
        if self._process is None:
            if self._clock() >= self._start_at:
                self.start()
        elif (code := self._process.poll()) is not None:
            _end(self._process)
            if code == _WRONG_INPUT:
                raise InvalidInput(f"the {self.name} cannot start: the last line above says why")
            self._note_death(self._process, code)

    def _note_death(self, process: subprocess.Popen[bytes], code: int) -> None:
        now = self._clock()
        young = now - self._started_at < _YOUNG_SECONDS
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS) if young else 0.0
        self._process, self._start_at = None, now + self._pause
        log.error(
            "process died, starting it again",
            extra={"child": self.name, "pid": process.pid, "exit_code": code, "in_seconds": self._pause},
        )
        if self._on_death is not None:
            self._on_death()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it runs."""
        if self._process is not None and self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and whatever it started in its session; return when it has ended."""
        if self._process is not None:
            _end(self._process)

    def stop(self, *, seconds: float) -> None:
        """Ask the process to stop, and kill it if it takes longer than that, with whatever it left behind."""
        self.ask_to_stop()
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                log.warning("process did not stop in time", extra={"child": self.name, "pid": self._process.pid})
            self.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and of its children: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("process group has ended already", extra={"pid": process.pid})
    process.wait()
    if process.stdin is not None:  # the lifeline
        process.stdin.close()
