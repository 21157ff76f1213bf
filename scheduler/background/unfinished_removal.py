"""The scheduler process's housekeeping: files that killed writers left in the object store."""

import logging
import threading
from dataclasses import dataclass

from storage.objects.store import ObjectStore
from storage.process.service_loop import run_until_stopped

log = logging.getLogger(__name__)

#: Nobody takes so long to store a picture; and clocks of machines that share a folder differ by less.
_UNTOUCHED_SECONDS = 86_400.0
#: It looks at every name there is.
_EVERY_SECONDS = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
class UnfinishedRemoval:
    objects: ObjectStore
    every_seconds: float = _EVERY_SECONDS

    def run_once(self) -> int:
        """Remove what nobody has written to for a day; how much there was. Raises ObjectStoreProblem."""
        removed = self.objects.remove_unfinished(seconds=_UNTOUCHED_SECONDS)
        if removed:
            log.info("files of killed writers removed", extra={"n": removed})
        return removed

    def run(self, stopping: threading.Event) -> None:
        """Look at the start and a few times a day until asked to stop; a store that is away is waited for."""
        run_until_stopped(
            self.run_once, doing="remove unfinished files", every_seconds=self.every_seconds, stopping=stopping
        )
