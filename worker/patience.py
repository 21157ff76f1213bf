"""Waiting for a service that is away, holding what is in hand, without a flood of log lines."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from storage.errors import ServiceProblem

log = logging.getLogger(__name__)

R = TypeVar("R")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_LOG_EVERY_SECONDS = 60.0


def patiently(action: Callable[[], R], *, what: str, stopping: threading.Event) -> R:
    """Repeat an idempotent action until the service it needs is back, with backoff and jitter.

    Raises ServiceProblem at the next failure once `stopping` is set.
    """
    pause, logged_at = _FIRST_PAUSE_SECONDS, float("-inf")
    while True:
        try:
            return action()
        except ServiceProblem as error:
            if stopping.is_set():
                raise
            if time.monotonic() - logged_at >= _LOG_EVERY_SECONDS:
                log.warning("cannot %s, trying again until it works: %s", what, error)
                logged_at = time.monotonic()
        stopping.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
