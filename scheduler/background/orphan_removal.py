"""The scheduler process's housekeeping, beside the sweep: a store that hangs must not keep leases from being judged."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from storage.jobs.orphans import Orphans
from storage.process.service_loop import run_until_stopped

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OrphanRemoval:
    orphans: Orphans
    #: Deletes some pictures of renders that were deleted over HTTP, or by a command that was interrupted; how many.
    delete_some: Callable[[], int]
    every_seconds: float

    def run_once(self) -> None:
        """Raises ServiceProblem; what was done before stays done."""
        removed = deleted = 1
        # In turns: a render of a million pictures takes a while.
        while removed or deleted:
            if removed := self.orphans.remove_due():
                log.info("orphans removed", extra={"n": removed})
            if deleted := self.delete_some():
                log.info("deleted", extra={"n": deleted})

    def run(self, stopping: threading.Event) -> None:
        """Remove orphans until asked to stop; a service that is away is waited for."""
        run_until_stopped(self.run_once, doing="remove orphans", every_seconds=self.every_seconds, stopping=stopping)
