"""Has the parts performed in a process of their own, and another one if that fails, hangs, or breaks its device."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.programme import BY_NAME, Part

_REPOSITORY = Path(__file__).resolve().parents[2]
#: For importing torch and making a CUDA context.
_START_SECONDS = 120.0

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Conductor:
    """One run, from its first part to its last second."""

    device: str
    tiny: bool
    seconds: float
    #: For what parts write to disk.
    folder: Path
    #: Called whenever there is more to keep.
    save: Callable[[], None]
    say: Say
    #: The process that owns the device.
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.gpu.performer")
    #: What a part that overlooks its time may take beyond it, before its process is ended.
    patience: float = 12.0
    #: What the device calls itself.
    on: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    _ends: float = 0.0

    def run(self, parts: Sequence[Part]) -> None:
        """Perform the parts, in their order, until the time is up; each leaves rows, one that says why at the least."""
        self._ends = time.monotonic() + self.seconds
        waiting = [part.name for part in parts]
        while waiting:
            if self._left <= 0:
                for name in waiting:
                    self._note(name, skipped="no time left")
                    self._ended(name, "skipped", 0.0)
                return
            ended = self._perform(waiting)
            if not ended:
                # Its process does not even start: neither will the next one.
                for name in waiting:
                    self._note(name, failed=f"no process for it: {self._last_words()}")
                    self._ended(name, "failed", 0.0)
                return
            waiting = waiting[ended:]

    @property
    def _left(self) -> float:
        return self._ends - time.monotonic()

    def _perform(self, names: Sequence[str]) -> int:
        """Start a process for these parts; return how many of them it has brought to an end, good or bad."""
        with self._performer(names) as (process, messages):
            ended, current, begun = 0, "", time.monotonic()
            until = min(begun + _START_SECONDS, self._ends)
            while True:
                try:
                    message = messages.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    why = f"ended by force after {time.monotonic() - begun:.0f} s: {self._last_words()}"
                    message = None
                else:
                    why = f"its process ended with {process.wait()}: {self._last_words()}" if message is None else ""
                if message is None:
                    if current:
                        self._note(current, failed=why)
                        self._ended(current, "failed", time.monotonic() - begun)
                        ended += 1
                    return ended
                if "begin" in message:
                    current, begun = message["begin"], time.monotonic()
                    until = min(begun + message["seconds"] + self.patience, self._ends)
                    self.say(f"{self._left:5.0f} s left: {current}")
                elif "end" in message:
                    self._ended(current, message["outcome"], message["seconds"])
                    current, ended, until = "", ended + 1, min(time.monotonic() + _START_SECONDS, self._ends)
                    if ended == len(names):
                        return ended
                else:
                    self._take(message)

    def _take(self, message: Mapping[str, Any]) -> None:
        if "device" in message:
            self.on.update(message["device"])
        if "row" in message:
            self.rows.append(message["row"])
        self.save()

    def _note(self, name: str, **words: str) -> None:
        part = BY_NAME[name]
        labels = {"model" if key == "name" else key: value for key, value in part.arguments.items()}
        self.rows.append({"part": part.kind, **labels, **words})

    def _ended(self, name: str, outcome: str, seconds: float) -> None:
        self.parts.append({"name": name, "outcome": outcome, "seconds": round(seconds, 2)})
        self.save()

    @contextlib.contextmanager
    def _performer(self, names: Sequence[str]) -> Any:
        """A process for these parts, and its messages as they come, None the last; it and all that it started end."""
        told = {
            "device": self.device,
            "tiny": self.tiny,
            "folder": str(self.folder),
            "rows": self.rows,
            "parts": list(names),
            "seconds": self._left,
        }
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own, but in tests
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_REPOSITORY,
                # So that what it started ends with it.
                start_new_session=True,
            )
        if process.stdin is None or process.stdout is None:
            raise AssertionError("unreachable: both are pipes")
        messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, messages), daemon=True)
        try:
            reader.start()
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(json.dumps(told).encode())
            yield process, messages
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()
            process.stdout.close()

    @property
    def _log(self) -> Path:
        return self.folder / "performer.log"

    def _last_words(self) -> str:
        """Return the last line that says something of what the process wrote."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no output")


def _read(stream: IO[bytes], messages: "queue.Queue[dict[str, Any] | None]") -> None:
    for line in stream:
        with contextlib.suppress(ValueError):  # cut off in the middle, by the end of the process
            messages.put(json.loads(line))
    messages.put(None)
