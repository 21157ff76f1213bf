"""The scheduler process's housekeeping, beside the sweep: a store that hangs must not keep leases from being judged."""

import logging
import threading
from dataclasses import dataclass

from storage.jobs.orphans import Orphans
from storage.process.service_loop import run_until_stopped

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OrphanRemoval:
    orphans: Orphans
    every_seconds: float

    def run_once(self) -> None:
        """Raises ServiceProblem; what was done before stays done."""
        while removed := self.orphans.remove_due():
            log.info("orphans removed", extra={"n": removed})

    def run(self, stopping: threading.Event) -> None:
        """Remove orphans until asked to stop; a service that is away is waited for."""
        run_until_stopped(self.run_once, doing="remove orphans", every_seconds=self.every_seconds, stopping=stopping)
