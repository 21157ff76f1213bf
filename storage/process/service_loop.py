"""The loops of services: one that runs every few seconds until its process is to stop, one until a service is there."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from storage.errors import ObjectStoreOverwrites, SchemaMismatch, ServiceProblem
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0

T = TypeVar("T")


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


def once_available(start: Callable[[], T], *, doing: str, stopping: threading.Event) -> T | None:
    """Return what `start` returns once the services that it needs answer; None if the process is to stop before.

    Services that answer late are no reason to end: machines start in any order.

    Args:
        doing: the action, for the log line: "start the scheduler process".

    Raises SchemaMismatch for tables of another version, and ObjectStoreOverwrites for a store that replaces pictures.
    """
    throttle = LogThrottle()
    while not stopping.is_set():
        try:
            return start()
        except (SchemaMismatch, ObjectStoreOverwrites):
            raise
        except ServiceProblem as error:
            if throttle.passes(error.fault):
                log.warning("service unavailable, waiting until it answers", extra={"action": doing, "error": error})
        stopping.wait(_PAUSE_SECONDS)
    return None
