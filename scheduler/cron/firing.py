"""Fire what is due, note what was missed, open and close windows.

Any number of processes may do this at once, and be killed in it: a firing is decided in one transaction, by whoever
writes its row first (`storage.renders.schedules`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from scheduler.cron.plan import Planned, due, is_open, next_time
from scheduler.cron.stored_orders import StoredOrder, restored_order
from scheduler.intake.admission import Submitter
from scheduler.intake.submit import Intake, admit, intake_of, publish_tickets, quanta
from scheduler.services import Services
from storage.access.keys import Keys
from storage.broker.tickets import Tickets
from storage.errors import InvalidInput, ObjectStoreProblem
from storage.renders.schedules import FiringOutcome, Schedule, Schedules

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScheduleRunner:
    schedules: Schedules
    keys: Keys
    intake: Intake
    #: Seconds since 1970; None: the database's clock.
    clock: Callable[[], float] | None = None

    def now(self) -> float:
        return self.schedules.now() if self.clock is None else self.clock()

    def run_once(self) -> float:
        """Fire everything that is due; return the seconds until something is due again, at most an hour.

        Raises ServiceProblem; what was done stays done, and the rest is tried again with the next turn.
        """
        now = self.now()
        wait = 3600.0
        problem: ObjectStoreProblem | None = None
        for schedule in self.schedules.all():
            try:
                if not schedule.paused:
                    wait = min(wait, self._fire_due(schedule, now))
                self._keep_window(schedule, now)
            except ObjectStoreProblem as error:
                # Only this schedule's prompts are out of reach; the others go on.
                problem = error
        if problem is not None:
            raise problem
        return wait

    def fire_by_hand(self, schedule: Schedule) -> str | None:
        """Fire now, whatever the plan says, and return the render; None if overlap forbids it. Raises InvalidInput."""
        return self._fire(schedule, self.now(), note="by hand")

    def _fire_due(self, schedule: Schedule, now: float) -> float:
        plan = schedule.plan
        for planned in due(plan.cron, plan.timezone, plan.catch_up, after=schedule.decided_to, now=now):  # type: ignore[arg-type]
            self._decide(schedule, planned)
        coming = next_time(plan.cron, plan.timezone, max(now, schedule.decided_to))
        return 3600.0 if coming is None else coming - now

    def _decide(self, schedule: Schedule, planned: Planned) -> None:
        if not planned.fires:
            self.schedules.note(schedule, planned.at, FiringOutcome.MISSED)
            return
        try:
            self._fire(schedule, planned.at)
        except InvalidInput as error:
            # Such as a model that is no longer registered, or lost rows: retrying would not help.
            if self.schedules.note(schedule, planned.at, FiringOutcome.FAILED, str(error)):
                log.error("schedule cannot fire", extra={"schedule": schedule.name, "error": error})

    def _fire(self, schedule: Schedule, at: float, note: str | None = None) -> str | None:
        try:
            kept = StoredOrder.model_validate(schedule.order)
        except ValidationError:
            raise InvalidInput(
                "the schedule was added by another version of the farm; remove it and add it again"
            ) from None
        submitter = self._submitter(schedule, kept)
        opened = is_open(schedule.plan.window, schedule.plan.timezone, self.now())
        terms = kept.terms(held=not opened)
        with restored_order(kept, self.intake.objects, name=schedule.name) as order:
            jobs = admit(self.intake, submitter, order, terms)
            render_id = self.schedules.fire(
                *(schedule, at, jobs, terms.submission(submitter), quanta(self.intake.registry)), by_hand=note
            )
        if render_id is not None:
            log.info("schedule fired", extra={"schedule": schedule.name, "render": render_id})
            self._call_workers()
        return render_id

    def _submitter(self, schedule: Schedule, kept: StoredOrder) -> Submitter:
        """Return whose order it is, with the limits of its key. Raises InvalidInput if the key is no longer valid."""
        if kept.key_id is None:
            return Submitter(owner=schedule.owner)
        key = self.keys.usable(kept.key_id)
        if key is None:
            raise InvalidInput("the API key that the schedule was added with is revoked or expired")
        return Submitter(owner=schedule.owner, key_id=key.id, limits=key.limits)

    def _call_workers(self) -> None:
        """Top up the tickets of every model with waiting jobs."""
        intake = self.intake
        waiting = intake.jobs.best_waiting(intake.registry.models)
        publish_tickets(intake.jobs, intake.registry, intake.tickets, waiting)

    def _keep_window(self, schedule: Schedule, now: float) -> None:
        """Release the schedule's renders when its window opens, and hold the rest of them when it closes."""
        plan = schedule.plan
        if plan.window is None:
            return
        opened = is_open(plan.window, plan.timezone, now)
        for render_id in self.schedules.out_of_step(schedule, window_open=opened):
            if opened:
                self.intake.jobs.release(render_id)
                self._call_workers()
            else:
                self.intake.jobs.hold(render_id)
            self.schedules.note_window(render_id, window_open=opened)


def schedule_runner(services: Services, tickets: Tickets | None) -> ScheduleRunner:
    """Return the runner over these services."""
    return ScheduleRunner(
        schedules=Schedules(services.database, services.jobs),
        keys=Keys(services.database),
        intake=intake_of(services, tickets),
    )
