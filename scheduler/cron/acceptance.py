"""Accept a firing: its order is restored, specified and accepted, or a word is said why not."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from scheduler.cron.meter import Meter, OverLimit
from scheduler.cron.stored_orders import StoredOrder, kept_order, restored_order
from scheduler.intake.admission import Submitter, webhook_of
from scheduler.intake.moments import in_zone, is_open
from scheduler.intake.submit import Intake, admit, intake_of, publish_tickets, quanta
from scheduler.services import Services
from storage.access.keys import Keys
from storage.broker.tickets import Tickets
from storage.errors import InvalidInput
from storage.jobs.values import NewJob, Submission
from storage.renders.firings import ClaimedFiring, Firings
from storage.renders.measures import Measures
from storage.renders.schedules import FiringOutcome, Schedule, Schedules
from storage.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    schedules: Schedules
    firings: Firings
    keys: Keys
    intake: Intake
    settings: Settings
    #: Seconds since 1970; None: the database's clock.
    clock: Callable[[], float] | None = None

    def now(self) -> float:
        return self.schedules.now() if self.clock is None else self.clock()

    def accept(self, claimed: ClaimedFiring, *, through: Callable[[Iterable[NewJob]], Iterable[NewJob]] = iter) -> None:
        """Accept a claimed firing, or decide that it is skipped or failed; nothing if it is no longer ours.

        Args:
            through: wraps the pictures as they pass; what it raises ends the acceptance, and nothing is decided.

        Raises ServiceProblem; then nothing is decided.
        """
        schedule = claimed.schedule
        # Asked before prompts are read for nothing, and again in the transaction that accepts.
        if (why := self.firings.why_not(claimed)) is not None:
            self.firings.decide(claimed, FiringOutcome.SKIPPED, why)
            return
        meter = self._meter(schedule, claimed.planned_at)
        try:
            with self._pictures(schedule) as (jobs, submission):
                measured = through(meter.through(jobs))
                size = partial(meter.size, held=submission.held, now=self.now())
                render_id = self.firings.accept(claimed, measured, submission, quanta(self.intake.registry), size=size)
        except OverLimit as error:
            self.firings.decide(claimed, FiringOutcome.SKIPPED, str(error))
            return
        except InvalidInput as error:
            # Such as a model that is no longer registered, or lost rows: retrying would not help.
            self.fail(claimed, str(error))
            return
        if render_id is not None:
            self._fired(schedule, render_id)

    def fail(self, claimed: ClaimedFiring, note: str) -> None:
        """Decide that a claimed firing has failed, for good; nothing if it is no longer ours."""
        if self.firings.decide(claimed, FiringOutcome.FAILED, note):
            log.error("schedule cannot fire", extra={"schedule": claimed.schedule.name, "error": note})

    def fire_by_hand(self, schedule: Schedule, *, at: float | None = None) -> str | None:
        """Fire now, whatever the plan says, and return the render; None if a rule forbids it. Raises InvalidInput.

        It is accepted here, not by a scheduler process.

        Args:
            at: the moment by which the firing is found in the history; None: now.
        """
        if schedule.ended:
            last = in_zone(schedule.plan.at or 0.0, schedule.plan.timezone)
            raise InvalidInput(
                f"schedule {schedule.name} has ended, its time was {last}; "
                f"`farm schedule edit {schedule.name} --at TIME` gives it another"
            )
        now = self.now() if at is None else at
        meter = self._meter(schedule, now)
        try:
            with self._pictures(schedule) as (jobs, submission):
                size = partial(meter.size, held=submission.held, now=now)
                render_id = self.firings.fire_by_hand(
                    schedule, now, meter.through(jobs), submission, quanta(self.intake.registry), size=size
                )
        except OverLimit as error:
            raise InvalidInput(f"schedule {schedule.name} did not fire: {error}") from None
        if render_id is not None:
            self._fired(schedule, render_id)
        return render_id

    @contextmanager
    def _pictures(self, schedule: Schedule) -> Iterator[tuple[Iterable[NewJob], Submission]]:
        """Restore what a schedule renders. Raises InvalidInput, here or while the pictures are read."""
        kept = kept_order(schedule)
        submitter = replace(self._submitter(schedule, kept), local_files=kept.reads_local_file)
        opened = is_open(schedule.plan.window, schedule.plan.timezone, self.now())
        terms = kept.terms(held=not opened)
        with restored_order(kept, self.intake.objects, self.settings, name=schedule.name) as order:
            yield admit(self.intake, submitter, order, terms), terms.submission(submitter)

    def _meter(self, schedule: Schedule, planned_at: float) -> Meter:
        return Meter(schedule, planned_at, self.intake.registry, Measures(self.schedules.database))

    def _submitter(self, schedule: Schedule, kept: StoredOrder) -> Submitter:
        """Return whose order it is, with the limits of its key. Raises InvalidInput if the key is no longer valid."""
        if kept.key_id is None:
            return Submitter(owner=schedule.owner, api_url=kept.api_url)
        key = self.keys.usable(kept.key_id)
        if key is None:
            raise InvalidInput("the API key that the schedule was added with is revoked or expired")
        return Submitter(
            owner=schedule.owner,
            key_id=key.id,
            limits=key.limits,
            webhook=webhook_of(key),
            api_url=kept.api_url,
        )

    def _fired(self, schedule: Schedule, render_id: str) -> None:
        log.info("schedule fired", extra={"schedule": schedule.name, "render": render_id})
        call_workers(self.intake)


def call_workers(intake: Intake) -> None:
    """Top up the tickets of every model with waiting jobs."""
    waiting = intake.jobs.best_waiting(intake.registry.models)
    publish_tickets(intake.jobs, intake.registry, intake.tickets, waiting)


def acceptance_of(services: Services, tickets: Tickets | None) -> Acceptance:
    """Return the acceptance of firings over these services."""
    return Acceptance(
        schedules=Schedules(services.database),
        firings=Firings(services.database, services.jobs, lease_seconds=services.settings.lease_seconds),
        keys=Keys(services.database),
        intake=intake_of(services, tickets),
        settings=services.settings,
    )
