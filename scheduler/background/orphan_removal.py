"""The scheduler process's housekeeping, beside the sweep: a store that hangs must not keep leases from being judged."""

import logging
import math
import threading
import time
from dataclasses import dataclass

from storage.errors import ServiceProblem
from storage.jobs.orphans import Leftovers

log = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Tidy:
    leftovers: Leftovers
    every_seconds: float

    def run_once(self) -> None:
        """Raises ServiceProblem; what was done before stays done."""
        while removed := self.leftovers.remove_due():
            log.info("removed leftovers=%d", removed)

    def run(self, stopping: threading.Event) -> None:
        """Tidy until asked to stop; a service that is away is waited for, with a log line a minute."""
        logged_at = -math.inf
        while not stopping.is_set():
            try:
                self.run_once()
            except ServiceProblem as error:
                if time.monotonic() - logged_at >= _LOG_EVERY_SECONDS:
                    log.warning("cannot remove leftovers, trying again until it works: %s", error)
                    logged_at = time.monotonic()
            stopping.wait(self.every_seconds)
