"""A turn is what a ticket starts: claim → render → claim the next batch, until the model should make way for others."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from storage.broker.tickets import Tickets
from storage.errors import BrokerProblem, DeviceBroken, ModelUnavailable, ServiceProblem
from storage.jobs.values import Claim
from storage.rules.states import Priority
from storage.spec.models import Model
from worker.rendering.backend import LoadedModel
from worker.serving.batch import Batch, WorkerContext
from worker.serving.batch_limits import is_learned
from worker.serving.claims_ahead import ClaimsAhead
from worker.serving.denoising import Denoising, Hooks
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
    ahead: ClaimsAhead
    stopping: threading.Event
    #: Whether the registry still has just this model; a visit to another one ends.
    is_current: Callable[[Model], bool] = lambda _: True

    def run(self, model: Model) -> int:
        """Serve one model until the turn ends; return how many pictures were rendered. Nothing is left in hand.

        Raises DeviceBroken.
        """
        visit, pictures = _Visit(turn=self, model=model), 0
        try:
            while not self.stopping.is_set():
                limit = self.context.batch_limits.to_claim(model, lambda at_most: self._waiting(model, at_most))
                claim = self.context.jobs.claim(model=model.alias, worker=self.context.worker, limit=limit)
                if claim is None:
                    self._stand_aside(model)
                    break
                pictures += self._render(visit, claim)
                if not visit.stays(self.context.jobs.best_waiting(self.served), claim.jobs[0].priority):
                    break
        finally:
            # Rendered pictures are stored, whatever became of the next batch.
            self.context.publisher.drain()
            self.context.heartbeat.now(state="idle")
        return pictures

    def _render(self, visit: "_Visit", claim: Claim, *, joinable: bool = True) -> int:
        context, model = self.context, visit.model
        # Before the model is loaded: others that are free need not wait for that.
        visit.claimed(claim)
        # Before jobs are in hand: an idle device has been silent for long.
        context.watchdog.expect_silence(self.load_seconds)
        context.leases.add(claim.jobs)
        try:
            context.heartbeat.now(state="loading", model=model.alias, batch=len(claim.jobs))
            loaded = self._load(model)
            loop = None if claim.jobs[0].together else loaded.slots()
            context.heartbeat.now(state="rendering", batch=len(claim.jobs))
            if loop is not None:
                return Denoising(
                    model,
                    loaded,
                    loop,
                    context=context,
                    ahead=self.ahead,
                    hooks=Hooks(
                        claimed=visit.claimed,
                        given_back=lambda priority: self.return_ticket(model, priority),
                        stays=visit.stays,
                        between_calls=lambda waiting: self._between_calls(visit, waiting),
                        rendered=self.help.rendered,
                        is_stopping=self.stopping.is_set,
                        is_as_loaded=lambda: self.models.loaded(model.alias) is not None,
                    ),
                ).run(claim, joinable=joinable)
            return self._render_batch(visit, claim, loaded)
        except ModelUnavailable as error:
            # Pictures that were rendered before are on their way to the store, no longer at the device.
            context.report_fault(context.leases.at_the_device(claim.jobs), error.fault, str(error))
            return 0
        except DeviceBroken as error:
            context.report_fault(context.leases.at_the_device(claim.jobs), error.fault, str(error))
            raise
        except BaseException:
            # Whatever this is, nobody works on these jobs now: their leases must expire.
            context.leases.drop(claim.jobs)
            raise

    def _load(self, model: Model) -> LoadedModel:
        try:
            return self.models.get(model)
        finally:
            # Others may have made room for it, even where it could not be loaded.
            self.context.heartbeat.holds(self.models.aliases)

    def _between_calls(self, visit: "_Visit", waiting: Mapping[str, Priority]) -> bool:
        """Render what somebody waits for at a screen of another model that is loaded; return whether there was any.

        The pictures in hand stand aside meanwhile, their latents kept.
        """
        urgent = Priority.INTERACTIVE
        if self.stopping.is_set():
            return False
        aliases = [alias for alias, priority in waiting.items() if priority is urgent and alias != visit.model.alias]
        for model in map(self.models.loaded, aliases):
            if model is not None and (claim := self._claim_urgent(model)) is not None:
                self._render(_Visit(turn=self, model=model), claim, joinable=False)
                return True
        return False

    def _claim_urgent(self, model: Model) -> Claim | None:
        """Claim what somebody waits for at a screen, and no more."""
        jobs = self.context.jobs
        try:
            waiting = jobs.waiting(model.alias, Priority.INTERACTIVE, at_most=model.batch)
            claim = jobs.claim(model=model.alias, worker=self.context.worker, limit=waiting) if waiting else None
            if claim is not None and claim.jobs[0].suspect:
                # It is to have the device to itself, once what has begun is finished.
                jobs.give_back(claim.jobs)
                return None
        except ServiceProblem as error:
            # Raised only once the process is to stop.
            log.info("claim not answered", extra={"error": error})
            return None
        return claim

    def _render_batch(self, visit: "_Visit", claim: Claim, loaded: LoadedModel) -> int:
        started = time.monotonic()
        claim = self._without_surplus(visit.model, claim)
        made = Batch(claim=claim, model=visit.model, context=self.context).run(loaded)
        self.help.rendered(made, time.monotonic() - started)
        self.context.heartbeat.rendered(made)
        return made

    def _waiting(self, model: Model, at_most: int) -> int:
        """Count what waits for a model; none, where somebody waits at a screen: such a batch is not to be large."""
        best = self.context.jobs.best_waiting([model.alias]).get(model.alias)
        if best is None or best is Priority.INTERACTIVE:
            return 0
        return self.context.jobs.waiting(model.alias, best, at_most=at_most)

    def _without_surplus(self, model: Model, claim: Claim) -> Claim:
        """Give back what was claimed for a large call and is of a kind that has smaller ones."""
        limit = self.context.batch_limits.for_batch(model, claim.jobs).pictures
        if not is_learned(model) or len(claim.jobs) <= max(limit, model.batch):
            return claim
        surplus = claim.jobs[limit:]
        self.context.jobs.give_back(surplus)
        self.context.leases.drop(surplus)
        self.return_ticket(model, surplus[0].priority)
        return replace(claim, jobs=claim.jobs[:limit])

    def _stand_aside(self, model: Model) -> None:
        """Leave tickets to others while this worker is quarantined; return soon if it is from this model only."""
        while not self.stopping.is_set():
            quarantine = self.quarantines.quarantine_of(self.context.worker, model.alias)
            if quarantine is None:
                return
            for priority in self.context.jobs.best_waiting([model.alias]).values():
                self.return_ticket(model, priority)
            if quarantine.model is not None:
                self.stopping.wait(_ASIDE_SECONDS)
                return
            self.context.heartbeat.now(state="quarantined")
            self.stopping.wait(_QUARANTINE_POLL_SECONDS)

    def return_ticket(self, model: Model, priority: Priority) -> None:
        """Have another worker called to this model."""
        try:
            self.tickets.publish(model.alias, priority)
        except BrokerProblem as error:
            # The sweep publishes the tickets that are missing.
            log.warning("ticket not returned", extra={"error": error})


class _Visit:
    """A turn's time with one model, and its ticket, which said that there is work."""

    def __init__(self, *, turn: Turn, model: Model) -> None:
        self.model = model
        self._turn = turn
        self._started = time.monotonic()
        self._ticket_returned = False

    def claimed(self, claim: Claim) -> None:
        """Tell others of what still waits after a claim."""
        log.info("claimed", extra={"batch": claim.batch_id, "model": self.model.alias, "jobs": len(claim.jobs)})
        self._turn.help.claimed(self.model, claim.next_priority)
        if claim.next_priority is None:
            return
        if not self._ticket_returned:
            # Our ticket said that there is work; there still is, for whoever is free.
            self._turn.return_ticket(self.model, claim.next_priority)
            self._ticket_returned = True

    def stays(self, waiting: Mapping[str, Priority], least_urgent: Priority) -> bool:
        """Decide, from what waits for each model, whether to claim more of this one."""
        if not self._turn.is_current(self.model):
            return False
        others = {alias: priority for alias, priority in waiting.items() if alias != self.model.alias}
        return stays(
            elapsed=time.monotonic() - self._started,
            turn_seconds=self._turn.turn_seconds,
            waiting_here=waiting.get(self.model.alias, least_urgent),
            waiting_elsewhere=others,
        )
