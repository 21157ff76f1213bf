"""The scheduler process's housekeeping, beside the sweep: a store that hangs must not keep leases from being judged."""

import logging
import math
import threading
import time
from dataclasses import dataclass

from storage.errors import ServiceProblem
from storage.jobs.orphans import Orphans

log = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class OrphanRemoval:
    orphans: Orphans
    every_seconds: float

    def run_once(self) -> None:
        """Raises ServiceProblem; what was done before stays done."""
        while removed := self.orphans.remove_due():
            log.info("removed orphans=%d", removed)

    def run(self, stopping: threading.Event) -> None:
        """OrphanRemoval until asked to stop; a service that is away is waited for, with a log line a minute."""
        logged_at = -math.inf
        while not stopping.is_set():
            try:
                self.run_once()
            except ServiceProblem as error:
                if time.monotonic() - logged_at >= _LOG_EVERY_SECONDS:
                    log.warning("cannot remove orphans, trying again until it works: %s", error)
                    logged_at = time.monotonic()
            stopping.wait(self.every_seconds)
