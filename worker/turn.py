"""One turn: what a ticket sets off. Claim → render → claim the next, until this model should make way."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.broker import Tickets
from storage.claims import Claim
from storage.errors import BrokerProblem, ModelUnavailable
from storage.jobs import Jobs
from storage.models import Model
from storage.states import Priority
from worker.batch import Batch
from worker.heartbeat import Heartbeat
from worker.lease import Leases
from worker.loaded import Loaded
from worker.patience import patiently
from worker.publish import Publisher

log = logging.getLogger(__name__)


def stays(
    *, elapsed: float, turn_seconds: float, waiting_here: Priority | None, waiting_elsewhere: Mapping[str, Priority]
) -> bool:
    """Whether a worker claims its next batch from the same model.

    It does unless something of higher priority waits for another model, or its turn's time is over while anything
    does. With nothing left here it does, too: the claim then comes back empty and ends the turn.
    """
    if waiting_here is None or not waiting_elsewhere:
        return True
    return min(waiting_elsewhere.values()) >= waiting_here and elapsed < turn_seconds


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Everything that a turn needs; made once per device process."""

    worker: str
    served: Sequence[str]
    turn_seconds: float
    load_seconds: float
    jobs: Jobs
    tickets: Tickets
    loaded: Loaded
    leases: Leases
    publisher: Publisher
    heartbeat: Heartbeat
    stopping: threading.Event

    def run(self, model: Model) -> int:
        """Serve one model until the turn ends; how many pictures. Afterwards nothing is left in hand."""
        started, pictures, ticket_returned = time.monotonic(), 0, False
        while not self.stopping.is_set():
            claim = self._claim(model)
            if claim is None:
                break
            if claim.next_priority is not None and not ticket_returned:
                # Our ticket said "there is work"; there still is, for whoever is free.
                self._return_ticket(model, claim.next_priority)
                ticket_returned = True
            pictures += self._render(model, claim)
            if not stays(
                elapsed=time.monotonic() - started,
                turn_seconds=self.turn_seconds,
                waiting_here=claim.next_priority,
                waiting_elsewhere=self._waiting_elsewhere(model),
            ):
                break
        self.publisher.drain()
        self.heartbeat.now(state="idle")
        return pictures

    def _claim(self, model: Model) -> Claim | None:
        return patiently(
            lambda: self.jobs.claim(model=model.alias, worker=self.worker, limit=model.batch_limit),
            what="claim jobs",
            stopping=self.stopping,
        )

    def _render(self, model: Model, claim: Claim) -> int:
        log.info("claimed batch=%s model=%s jobs=%d", claim.batch_id, model.alias, len(claim.jobs))
        batch = Batch(claim=claim, worker=self.worker, jobs=self.jobs, leases=self.leases, publisher=self.publisher)
        self.leases.hold(claim.jobs)
        try:
            self.heartbeat.now(state="loading", model=model.alias)
            self.leases.expect_silence(self.load_seconds)
            renderer = self.loaded.get(model)
            self.heartbeat.now(state="rendering")
            made = batch.run(renderer)
        except ModelUnavailable as error:
            batch.failed(error)
            return 0
        except BaseException:
            # Whatever this is, nobody works on these jobs now: their leases must run out.
            self.leases.release(claim.jobs)
            raise
        self.heartbeat.rendered(made)
        return made

    def _waiting_elsewhere(self, model: Model) -> dict[str, Priority]:
        others = [alias for alias in self.served if alias != model.alias]
        return patiently(lambda: self.jobs.best_waiting(others), what="look at the queue", stopping=self.stopping)

    def _return_ticket(self, model: Model, priority: Priority) -> None:
        try:
            self.tickets.publish(model.alias, priority)
        except BrokerProblem as error:
            # The sweep publishes what is missing.
            log.warning("ticket not returned: %s", error)
