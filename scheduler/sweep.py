"""The scheduler process: what is late goes back to the queue, what waits unheard gets its tickets.

Any number of them may run: each step is one guarded statement, and surplus tickets do no harm.
"""

import logging
import threading
from dataclasses import dataclass

from scheduler.tickets import top_up
from storage.broker import Tickets
from storage.errors import ServiceProblem
from storage.jobs import Jobs
from storage.registry import Registry

log = logging.getLogger(__name__)

_LOG_EVERY_ROUNDS = 30


@dataclass(frozen=True, kw_only=True)
class Sweep:
    jobs: Jobs
    tickets: Tickets
    registry: Registry
    every_seconds: float

    def run_once(self) -> None:
        """Raises DatabaseProblem or BrokerProblem; what was done before stays done."""
        if lapsed := self.jobs.take_back_lapsed():
            log.warning("leases lapsed jobs=%d", lapsed)
        for alias in self.jobs.best_waiting(self.registry.models):
            if published := top_up(self.jobs, self.tickets, self.registry[alias]):
                log.info("tickets published model=%s n=%d", alias, published)

    def run(self, stopping: threading.Event) -> None:
        """Sweep until asked to stop; a service that is away is waited for, with a log line a minute."""
        failed_rounds = 0
        while not stopping.is_set():
            try:
                self.run_once()
                failed_rounds = 0
            except ServiceProblem as error:
                if failed_rounds % _LOG_EVERY_ROUNDS == 0:
                    log.warning("sweep failed, trying again until it works: %s", error)
                failed_rounds += 1
            stopping.wait(self.every_seconds)
