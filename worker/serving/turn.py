"""A turn is what a ticket starts: claim → render → claim the next batch, until the model should make way for others."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.broker.tickets import Tickets
from storage.errors import BrokerProblem, DeviceBroken, ModelUnavailable
from storage.jobs.values import Claim
from storage.rules.states import Priority
from storage.spec.models import Model
from worker.serving.batch import Batch, WorkerContext
from worker.serving.help_call import HelpCall
from worker.serving.model_cache import ModelCache
from worker.serving.services import Quarantines

log = logging.getLogger(__name__)

#: How long a worker that must not serve a model leaves its tickets to others.
_ASIDE_SECONDS = 1.0
_QUARANTINE_POLL_SECONDS = 5.0


def stays(
    *, elapsed: float, turn_seconds: float, waiting_here: Priority | None, waiting_elsewhere: Mapping[str, Priority]
) -> bool:
    """Decide whether a worker claims its next batch from the same model.

    It does, unless something of higher priority waits for another model, or anything does and the turn's time is up.
    With nothing left here it does too: the claim then comes back empty and ends the turn.
    """
    if waiting_here is None or not waiting_elsewhere:
        return True
    return min(waiting_elsewhere.values()) >= waiting_here and elapsed < turn_seconds


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Runs turns; made once per device process."""

    context: WorkerContext
    served: Sequence[str]
    turn_seconds: float
    load_seconds: float
    tickets: Tickets
    quarantines: Quarantines
    models: ModelCache
    help: HelpCall
    stopping: threading.Event

    def run(self, model: Model) -> int:
        """Serve one model until the turn ends; return how many pictures were rendered. Nothing is left in hand.

        Raises DeviceBroken.
        """
        started, pictures, ticket_returned = time.monotonic(), 0, False
        try:
            while not self.stopping.is_set():
                claim = self._claim(model)
                if claim is None:
                    self._stand_aside(model)
                    break
                if claim.next_priority is not None and not ticket_returned:
                    # Our ticket said that there is work; there still is, for whoever is free.
                    self._return_ticket(model, claim.next_priority)
                    ticket_returned = True
                if claim.next_priority is not None:
                    self.help.consider(model, claim.next_priority)
                pictures += self._render(model, claim)
                others = [alias for alias in self.served if alias != model.alias]
                if not stays(
                    elapsed=time.monotonic() - started,
                    turn_seconds=self.turn_seconds,
                    waiting_here=claim.next_priority,
                    waiting_elsewhere=self.context.jobs.best_waiting(others),
                ):
                    break
        finally:
            # Rendered pictures are stored, whatever became of the next batch.
            self.context.publisher.drain()
            self.context.heartbeat.now(state="idle")
        return pictures

    def _claim(self, model: Model) -> Claim | None:
        return self.context.jobs.claim(model=model.alias, worker=self.context.worker, limit=model.batch_limit)

    def _render(self, model: Model, claim: Claim) -> int:
        log.info("claimed", extra={"batch": claim.batch_id, "model": model.alias, "jobs": len(claim.jobs)})
        context, batch = self.context, Batch(claim=claim, model=model, context=self.context)
        # Before jobs are in hand: an idle device has been silent for long.
        context.watchdog.expect_silence(self.load_seconds)
        context.leases.add(claim.jobs)
        try:
            self.context.heartbeat.now(state="loading", model=model.alias, batch=len(claim.jobs))
            loaded = self.models.get(model)
            self.context.heartbeat.now(state="rendering", batch=len(claim.jobs))
            started = time.monotonic()
            made = batch.run(loaded)
            self.help.rendered(made, time.monotonic() - started)
        except (ModelUnavailable, DeviceBroken) as error:
            # Pictures that were rendered before are on their way to the store, no longer at the device.
            batch.report_fault(context.leases.at_the_device(claim.jobs), error.fault, str(error))
            if isinstance(error, DeviceBroken):
                raise
            return 0
        except BaseException:
            # Whatever this is, nobody works on these jobs now: their leases must expire.
            context.leases.drop(claim.jobs)
            raise
        self.context.heartbeat.rendered(made)
        return made

    def _stand_aside(self, model: Model) -> None:
        """Leave tickets to others while this worker is quarantined; return soon if it is from this model only."""
        while not self.stopping.is_set():
            quarantine = self.quarantines.quarantine_of(self.context.worker, model.alias)
            if quarantine is None:
                return
            for priority in self.context.jobs.best_waiting([model.alias]).values():
                self._return_ticket(model, priority)
            if quarantine.model is not None:
                self.stopping.wait(_ASIDE_SECONDS)
                return
            self.context.heartbeat.now(state="quarantined")
            self.stopping.wait(_QUARANTINE_POLL_SECONDS)

    def _return_ticket(self, model: Model, priority: Priority) -> None:
        try:
            self.tickets.publish(model.alias, priority)
        except BrokerProblem as error:
            # The sweep publishes the tickets that are missing.
            log.warning("ticket not returned", extra={"error": error})
