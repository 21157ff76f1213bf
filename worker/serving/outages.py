"""How to wait for a service that is away: hold what is in hand, try again, and do not flood the log.

`OutageRetry` is the policy; `worker.serving.patient` puts it in front of each service.
"""

import logging
import random
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from storage.errors import ServiceProblem
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)

R = TypeVar("R")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


class OutageListener(Protocol):
    """Whoever wants to know what a worker is waiting for."""

    def waits_for(self, what: str, problem: ServiceProblem) -> None: ...

    def waits_no_more(self, what: str) -> None: ...


class OutageRetry:
    """Repeats actions until the service that they need is back; one for all threads of a process."""

    def __init__(self, stopping: threading.Event, listener: OutageListener | None = None) -> None:
        """
        Args:
            stopping: once it is set, the next failure is raised.
        """
        self._stopping = stopping
        self._listener = listener
        #: By class of problem.
        self._throttle = LogThrottle()

    def __call__(self, action: Callable[[], R], /, *, what: str) -> R:
        """Repeat an idempotent action until the service it needs is back, with backoff and jitter.

        Raises ServiceProblem at the next failure once the process is to stop.

        Args:
            what: the action, for logs and the worker's row: "store pictures".
        """
        pause, waited = _FIRST_PAUSE_SECONDS, False
        try:
            while True:
                try:
                    return action()
                except ServiceProblem as error:
                    if self._stopping.is_set():
                        raise
                    self._report(what, error)
                    waited = True
                self._stopping.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        finally:
            if waited and self._listener is not None:
                self._listener.waits_no_more(what)

    def _report(self, what: str, error: ServiceProblem) -> None:
        if self._listener is not None:
            self._listener.waits_for(what, error)
        if self._throttle.passes(error.fault):
            log.warning("service unavailable, retrying until it is back", extra={"action": what, "error": error})
