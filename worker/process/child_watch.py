"""The parent watches its child: a device process that is silent for too long is killed, and Celery starts another.

The child watches the device itself (`worker.serving.watchdog`). This catches what stops the child as a whole, such as
a library that hangs while it holds the interpreter's lock: then none of its threads runs.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection

from storage.errors import DatabaseProblem
from storage.fleet.workers import SILENT_SECONDS, Workers

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
#: So many silent looks in a row: after an outage of the database, the child gets time to report.
_LOOKS = 3


class ChildWatch:
    """Looks at the row that the child keeps up to date (`worker.serving.heartbeat`)."""

    def __init__(
        self, workers: Workers, *, name: str, silent_seconds: float, children: Callable[[], Collection[int]]
    ) -> None:
        """
        Args:
            children: the process ids of the children that are running.
        """
        self._workers = workers
        self._name = name
        self._silent_seconds = silent_seconds
        self._children = children
        self._silent_looks = 0

    def start(self) -> None:
        threading.Thread(target=self._watch, name="child-watch", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            try:
                self.look()
            except DatabaseProblem:
                # Nobody can report now; whoever depends on the database says so.
                self._silent_looks = 0

    def look(self) -> None:
        """Kill the child if it announced itself and was silent at each of the last looks.

        Also if a worker elsewhere has its name by now: one that is well notices that, and ends.
        """
        beat, children = self._workers.last_beat(self._name), self._children()
        if beat is None:
            pid = None
        elif beat.ours:
            pid = beat.pid if beat.pid in children and beat.silent_for > self._silent_seconds else None
        else:
            # A predecessor's row stays until its successor, our child, has started.
            pid = next(iter(children), None) if beat.silent_for <= SILENT_SECONDS else None
        self._silent_looks = 0 if pid is None else self._silent_looks + 1
        if pid is not None and self._silent_looks >= _LOOKS:
            log.error("device process hangs and is killed", extra={"pid": pid})
            os.kill(pid, signal.SIGKILL)
            self._silent_looks = 0
