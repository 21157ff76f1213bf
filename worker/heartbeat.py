"""The worker's own row: who it is, what it does, and that it is alive."""

import logging
import threading
import time
from collections.abc import Callable

from storage.errors import DatabaseProblem
from storage.workers import Workers

log = logging.getLogger(__name__)


class Heartbeat:
    """Writes the row every few seconds, and at once when the state changes."""

    def __init__(self, workers: Workers, *, name: str, seconds: float, announce: Callable[[], None]) -> None:
        self._workers = workers
        self._name = name
        self._seconds = seconds
        self._announce = announce
        self._changed = threading.Event()
        self._state = "idle"
        self._model: str | None = None
        self._pictures = 0

    def start(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def now(self, *, state: str, model: str | None = None) -> None:
        """The state changed; the row follows shortly, without keeping the caller waiting."""
        if (state, model or self._model) != (self._state, self._model):
            self._state, self._model = state, model or self._model
            self._changed.set()

    def rendered(self, pictures: int) -> None:
        """So many more pictures were made."""
        self._pictures += pictures

    def _beat(self) -> None:
        announced = False
        while True:
            try:
                if not announced:
                    self._announce()
                    announced = True
                self._workers.beat(name=self._name, state=self._state, model=self._model, pictures=self._pictures)
            except DatabaseProblem as error:
                log.warning("no sign of life sent: %s", error)
            self._changed.wait(self._seconds)
            self._changed.clear()
            time.sleep(0.2)  # several changes in a row are one write
