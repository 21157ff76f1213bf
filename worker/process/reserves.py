"""Workers that start when those that run call for help: few pictures are not worth the seconds and memory of it."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from storage.process.keeper import Keeper

log = logging.getLogger(__name__)

#: Workers that have just started get so long to begin before more are called.
_SETTLING_SECONDS = 10.0


class Reserves:
    """The workers of this machine that wait to be called; used on the supervisor's thread.

    The call is a file, which a worker makes (`worker.serving.help_call`) and which stays while no further call would
    be answered: until the workers that it started are up, and for good once nobody is left.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._waiting: list[Keeper] = []
        self._running = 0
        self._clock = clock
        self._settled_at: float | None = None

    @property
    def file(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="farm-worker-")
        return Path(self._folder.name) / "call"

    def keep(self, waiting: Sequence[Keeper], *, running: int) -> None:
        """Take charge of workers that wait, beside so many of their kind that run."""
        self._waiting, self._running = list(waiting), running

    def called(self) -> list[Keeper]:
        """Return the workers that are to run from now on: as many as run already, so that few are not too many."""
        if not self._waiting or not self.file.exists():
            return []
        if self._settled_at is not None:
            if self._clock() >= self._settled_at:
                self._settled_at = None
                self.file.unlink(missing_ok=True)
            return []
        more, self._waiting = self._waiting[: self._running], self._waiting[self._running :]
        self._running += len(more)
        self._settled_at = self._clock() + _SETTLING_SECONDS
        log.info("a backlog calls for more workers", extra={"started": len(more), "left": len(self._waiting)})
        return more

    def close(self) -> None:
        """Remove the file's folder: who looks for it now is about to end."""
        if self._folder is not None:
            self._folder.cleanup()
