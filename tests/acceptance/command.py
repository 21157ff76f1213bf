"""The `farm` command as a person uses it: each run a process, with a FARM_HOME and a working directory of its own."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import psutil

from tests.forks import Starter
from tests.servers import eventually

#: Above any honest run of a command on a busy machine: with seven times as much to do as cores, a render took 90.
_SECONDS = 300
_FARM = str(Path(sys.executable).with_name("farm"))


@dataclass(frozen=True)
class Ended:
    """A command that came to its end."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    @cached_property
    def json(self) -> Any:
        """Standard output, which must be one JSON value on one line."""
        [line] = self.out.splitlines()
        return json.loads(line)

    @property
    def complaint(self) -> str:
        """Standard error, which must be one line that begins with `farm: `; without that."""
        [line] = self.err.splitlines()
        assert line.startswith("farm: "), line
        assert not self.out
        return line.removeprefix("farm: ")

    def complains(self, words: str) -> None:
        """One line, with these words (a regular expression) and no more than a screen's width or three."""
        complaint = self.complaint
        assert re.search(words, complaint), complaint
        assert len(complaint) < 400, complaint
        assert "Traceback" not in complaint


@dataclass(frozen=True)
class Running:
    """A command that was started."""

    process: subprocess.Popen[bytes]
    out_file: Path
    err_file: Path

    @property
    def err(self) -> str:
        return self.err_file.read_text()

    def says(self, words: str) -> None:
        """Wait until it has said so on standard error."""
        eventually(lambda: words in self._err_while_running(words), f"{words!r} is said")

    def ends(self) -> Ended:
        """Wait for its end."""
        code = self.process.wait(_SECONDS)
        return Ended((), code, self.out_file.read_text(), self.err)

    def interrupted(self) -> Ended:
        """As by Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.ends()

    def _err_while_running(self, words: str) -> str:
        ended = self.process.poll()
        assert ended is None or words in self.err, f"exit code {ended}: {self.err}"
        return self.err


class Home:
    """A FARM_HOME, and the commands that are run with it."""

    def __init__(self, folder: Path, starter: Starter, **settings: str) -> None:
        folder.mkdir(exist_ok=True)
        #: Where commands run, so where relative paths begin.
        self.folder = folder
        self.path = folder / "home"
        self._starter = starter
        self._settings = {"FARM_HOME": str(self.path), "FARM_DEVICES": "simulated:0"} | settings
        self._started = 0

    def farm(
        self,
        *arguments: str,
        code: int | None = 0,
        settings: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
    ) -> Ended:
        """Run `farm` to its end; fails if its exit code is another (with None, any will do)."""
        out, err = self.folder / "out.txt", self.folder / "err.txt"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = self._starter.start(
                [_FARM, *arguments],
                cwd=self.folder,
                env=self.environment(settings),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
        try:
            found = process.wait(_SECONDS)
        finally:
            process.kill()
        ended = Ended(arguments, found, out.read_text(), err.read_text())
        assert code in (None, found), ended
        return ended

    @contextmanager
    def started(
        self, *arguments: str, settings: Mapping[str, str] | None = None, afresh: bool = False
    ) -> Iterator[Running]:
        """`farm` while it runs, to be signalled; killed at the end if it still does.

        With `afresh` it and all that it starts are not forked: each is a Python of its own, as in use.
        """
        self._started += 1
        out, err = (self.folder / f"started-{self._started}.{stream}" for stream in ("out", "err"))
        starter = Starter() if afresh else self._starter
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = starter.start(
                [sys.executable, "-m", "scheduler.cli.main", *arguments],
                cwd=self.folder,
                env=self.environment(settings),
                stdout=stdout,
                stderr=stderr,
            )
        try:
            yield Running(process, out, err)
        finally:
            process.kill()
            process.wait()

    def file(self, name: str, content: str | bytes) -> str:
        """Write a file in the working directory; its name."""
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a command of this home finds in its environment."""
        return dict(os.environ) | self._settings | dict(settings or {})

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the embedded database, past all of our own code; nothing before it has tables."""
        file = self.path / "farm.db"
        if not file.exists():
            return []
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'renders'").fetchall():
                return []
            return connection.execute(statement).fetchall()

    def processes(self) -> list[psutil.Process]:
        """The processes that run with this home in their environment, or below it."""
        found = []
        for pid in self._pids():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def process(self, words: str) -> psutil.Process | None:
        """The process with these words in its command line; None where there is none."""
        return next((process for process in self.processes() if words in _command_line(process)), None)

    def wait_until_done(self, render_id: str, *, timeout: float = 120) -> None:
        """Wait until every picture of a render is made."""
        statement = f"SELECT 1 FROM renders WHERE id = '{render_id}' AND done = total"
        eventually(lambda: self.rows(statement), f"render {render_id} is done", timeout=timeout)

    def is_left_in_peace(self) -> None:
        """Wait until no process of this home is left."""
        left: list[str] = []

        def none_is_left() -> bool:
            # All processes there are, only once those that were seen before have ended: each look takes milliseconds.
            left[:] = [pid for pid in left if self._is_ours(pid)] or self._pids()
            return not left

        eventually(none_is_left, f"no process of {self.path} is left")

    def _pids(self) -> list[str]:
        return [name for name in os.listdir("/proc") if name.isdigit() and self._is_ours(name)]

    def _is_ours(self, pid: str) -> bool:
        """Whether a process is; asked of every process there is, again and again: psutil takes three times as long."""
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = b"\0" + file.read()
            # Redis writes its title over its environment, but works below the home.
            return f"\0FARM_HOME={self.path}\0".encode() in environment or os.readlink(f"/proc/{pid}/cwd").startswith(
                f"{self.path}/"
            )
        except OSError:  # it has ended, or is another user's
            return False


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended since it was listed
        return ""
