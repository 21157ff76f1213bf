"""The scheduler process: what is late goes back to the queue, what waits unheard gets its tickets.

Any number of them may run: each step is one guarded statement, and surplus tickets do no harm.
"""

import logging
import math
import threading
import time
from dataclasses import dataclass

from scheduler.intake.tickets import top_up
from storage.broker.tickets import Tickets
from storage.errors import DatabaseBusy, DatabaseProblem, ServiceProblem
from storage.fleet.fault_log import FaultLog
from storage.jobs.jobs import Jobs
from storage.spec.registry import Registry

log = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 60.0


@dataclass(kw_only=True)
class Sweep:
    jobs: Jobs
    faults: FaultLog
    tickets: Tickets
    registry: Registry
    every_seconds: float
    #: Workers renew their leases at least so often.
    renew_seconds: float
    lease_seconds: float

    def run_once(self, *, spare_leases: bool = False) -> None:
        """Raises DatabaseProblem or BrokerProblem; what was done before stays done."""
        if not spare_leases and (lapsed := self.jobs.recover_lapsed()):
            log.warning("leases lapsed jobs=%d", lapsed)
        for alias in self.jobs.best_waiting(self.registry.models):
            if published := top_up(self.jobs, self.tickets, self.registry[alias]):
                log.info("tickets published model=%s n=%d", alias, published)

    def run(self, stopping: threading.Event) -> None:
        """Sweep until asked to stop; a service that is away is waited for, with a log line a minute."""
        outage: ServiceProblem | None = None
        well_at, logged_at, spare_until = time.monotonic(), -math.inf, -math.inf
        while not stopping.is_set():
            try:
                self.run_once(spare_leases=time.monotonic() < spare_until)
                if outage is not None:
                    self._note(outage)
                well_at, outage = time.monotonic(), None
            except ServiceProblem as error:
                now = time.monotonic()
                if isinstance(error, DatabaseProblem) and now - well_at > self.lease_seconds / 2:
                    # Nobody could renew a lease meanwhile. Whoever still works does as soon as the database is back;
                    # to take the jobs away before would throw their pictures away.
                    spare_until = now + self.every_seconds + 2 * self.renew_seconds
                outage = outage or error
                if now - logged_at >= _LOG_EVERY_SECONDS:
                    log.warning("sweep failed, trying again until it works: %s", error)
                    logged_at = now
            stopping.wait(self.every_seconds)

    def _note(self, outage: ServiceProblem) -> None:
        """Write an outage down, which takes a database that is there again."""
        if outage.fault is not None and not isinstance(outage, DatabaseBusy):
            self.faults.note_outage(fault=outage.fault, worker=None, message=str(outage))
