"""The locks and notes below FARM_HOME by which processes on one machine find the farm that runs there."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from scheduler.services import make_home
from storage.settings import Settings


@dataclass(frozen=True)
class RunningFarm:
    """What a running farm publishes for its users (`run/farm.json`)."""

    pid: int
    broker_url: str
    #: True if it was started for a command and ends with its last user.
    until_unused: bool


class Home:
    """The locks and notes by which processes on one machine find the farm of a FARM_HOME."""

    def __init__(self, settings: Settings) -> None:
        self.run = settings.home.absolute() / "run"
        self.logs = settings.home.absolute() / "logs"
        self._note = self.run / "farm.json"

    def make(self, settings: Settings) -> None:
        make_home(settings)
        self.run.mkdir(mode=0o700, exist_ok=True)
        self.logs.mkdir(exist_ok=True)

    def running(self) -> RunningFarm | None:
        """Return the farm that is running here and ready to be used."""
        try:
            if self.free("farm.lock", fcntl.LOCK_SH):
                return None
            return RunningFarm(**json.loads(self._note.read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None  # there never was one, or it is starting or stopping

    def tell(self, farm: RunningFarm) -> None:
        unfinished = self._note.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(farm.__dict__))
        unfinished.rename(self._note)

    def last_words(self) -> str:
        """Return the last output of a farm that was started for a command."""
        log_file = self.logs / "farm.log"
        lines = log_file.read_text(errors="replace").strip().splitlines() if log_file.exists() else []
        return f"{'; '.join(lines[-2:]) or 'no output'} (see {log_file})"

    def hush(self) -> None:
        self._note.unlink(missing_ok=True)

    def free(self, name: str, mode: int) -> bool:
        """Return whether the lock could be taken now."""
        try:
            with self.locked(name, mode | fcntl.LOCK_NB):
                return True
        except BlockingIOError:
            return False

    @contextlib.contextmanager
    def locked(self, name: str, mode: int) -> Iterator[IO[str]]:
        """Hold a lock file. With LOCK_NB, raises BlockingIOError if somebody else holds it."""
        with (self.run / name).open("a") as file:
            fcntl.flock(file, mode)
            yield file
