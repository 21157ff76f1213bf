"""The parent's eye on its child: a device process that has stopped speaking is killed, for a fresh one to start.

The child watches its device itself (`worker.serving.watchdog`). This is for what stops the child as a whole, such as a
library that hangs with the interpreter's lock: then none of its threads runs.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection

from storage.errors import DatabaseProblem
from storage.fleet.workers import Workers

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
#: So many looks in a row: after an outage of the database the child gets time to speak again.
_LOOKS = 3


class ChildWatch:
    """Looks at the child's own row."""

    def __init__(
        self, workers: Workers, *, name: str, silent_seconds: float, children: Callable[[], Collection[int]]
    ) -> None:
        """
        Args:
            children: the process ids of the children that run now.
        """
        self._workers = workers
        self._name = name
        self._silent_seconds = silent_seconds
        self._children = children
        self._silent_looks = 0

    def start(self) -> None:
        threading.Thread(target=self._watch, name="overseer", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            try:
                self.look()
            except DatabaseProblem:
                # Nobody can speak now; whoever depends on the database says so.
                self._silent_looks = 0

    def look(self) -> None:
        """Kill the child that announced itself and has been silent at every look of late."""
        silent = [
            worker.pid
            for worker in self._workers.all()
            if worker.name == self._name and worker.silent_for > self._silent_seconds
        ]
        pid = next((pid for pid in silent if pid in self._children()), None)
        self._silent_looks = 0 if pid is None else self._silent_looks + 1
        if pid is not None and self._silent_looks >= _LOOKS:
            log.error("device process hangs and is killed", extra={"pid": pid, "silent_seconds": self._silent_seconds})
            os.kill(pid, signal.SIGKILL)
            self._silent_looks = 0
