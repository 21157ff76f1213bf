"""The loop of a service that runs every few seconds until its process is asked to stop."""

import logging
import threading
import time
from collections.abc import Callable

from storage.errors import ServiceProblem
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)


def run_until_stopped(
    run_once: Callable[[], object],
    *,
    doing: str,
    every_seconds: float,
    stopping: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call `run_once` repeatedly; wait for services that are unavailable, with one log line a minute.

    Args:
        doing: the action, for that line: "remove orphans".
    """
    throttle = LogThrottle(clock=clock)
    while not stopping.is_set():
        try:
            run_once()
        except ServiceProblem as error:
            if throttle.passes():
                log.warning("service unavailable, retrying until it is back", extra={"action": doing, "error": error})
        stopping.wait(every_seconds)
