"""The scheduler process: what is late goes back to the queue, what waits unheard gets its tickets.

Any number of them may run: each step is one guarded statement, and surplus tickets do no harm.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.intake.tickets import top_up
from storage.broker.tickets import Tickets
from storage.errors import DatabaseBusy, DatabaseProblem, ServiceProblem
from storage.fleet.fault_log import FaultLog
from storage.jobs.jobs import Jobs
from storage.process.service_loop import run_until_stopped
from storage.spec.registry import Registry

log = logging.getLogger(__name__)


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
    #: Between two looks for jobs that do not follow their render: nothing should make any.
    agree_seconds: float = 30.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._outage: ServiceProblem | None = None
        self._well_at = self.clock()
        self._spare_until = -math.inf
        self._agree_at = -math.inf

    def run_once(self, *, spare_leases: bool = False) -> None:
        """Raises DatabaseProblem or BrokerProblem; what was done before stays done."""
        if not spare_leases and (lapsed := self.jobs.recover_lapsed()):
            log.warning("leases lapsed", extra={"jobs": lapsed})
        if self.clock() >= self._agree_at:
            if wrong := self.jobs.put_right():
                log.warning("jobs were held or waited against their render", extra={"jobs": wrong})
            self._agree_at = self.clock() + self.agree_seconds
        # As they are now: the registry may follow its file meanwhile.
        models = self.registry.models
        for alias in self.jobs.best_waiting(models):
            if published := top_up(self.jobs, self.tickets, models[alias]):
                log.info("tickets published", extra={"model": alias, "n": published})

    def run(self, stopping: threading.Event) -> None:
        """Sweep until asked to stop; a service that is away is waited for."""
        run_until_stopped(
            self._run_once_and_watch,
            doing="sweep",
            every_seconds=self.every_seconds,
            stopping=stopping,
            clock=self.clock,
        )

    def _run_once_and_watch(self) -> None:
        try:
            self.run_once(spare_leases=self.clock() < self._spare_until)
            if self._outage is not None:
                self._note(self._outage)
            self._well_at, self._outage = self.clock(), None
        except ServiceProblem as error:
            now = self.clock()
            if isinstance(error, DatabaseProblem) and now - self._well_at > self.lease_seconds / 2:
                # Nobody could renew a lease meanwhile. Whoever still works does as soon as the database is back;
                # to take the jobs away before would throw their pictures away.
                self._spare_until = now + self.every_seconds + 2 * self.renew_seconds
            self._outage = self._outage or error
            raise

    def _note(self, outage: ServiceProblem) -> None:
        """Write an outage down, which takes a database that is there again."""
        if outage.fault is not None and not isinstance(outage, DatabaseBusy):
            self.faults.note_outage(fault=outage.fault, worker=None, message=str(outage))
