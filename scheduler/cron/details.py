"""Look into a schedule: its next times, its order and how long that takes, its last firings, why it does not fire."""

from contextlib import suppress
from itertools import islice

from scheduler.cron.json_forms import FiringForm, OrderForm, ScheduleDetails, ScheduleForm
from scheduler.cron.plan import times_after
from scheduler.cron.stored_orders import StoredOrder, kept_order
from scheduler.intake.moments import in_zone
from scheduler.intake.pace import pace_of
from storage.errors import InvalidInput
from storage.renders.measures import Measures
from storage.renders.schedules import Firing, FiringOutcome, Schedule, Schedules
from storage.spec.registry import Registry

_NEXT = 5
_LAST = 5


class Paces:
    """How long orders take one device, by the pace that was measured; each model is asked for once."""

    def __init__(self, registry: Registry, measures: Measures) -> None:
        self._registry = registry
        self._measures = measures
        self._means: dict[str, float | None] = {}

    def seconds(self, work: dict[str, int] | None) -> float | None:
        """Return the seconds that so much work of each model takes; None: nobody knows."""
        if not work:
            return None
        means = {model: self._mean(model) for model in work}
        return sum(mean * work[model] for model, mean in means.items() if mean) if all(means.values()) else None

    def _mean(self, model: str) -> float | None:
        if model not in self._means:
            known = self._registry.models.get(model)
            pace = None if known is None else pace_of(self._measures.samples(model), known)
            self._means[model] = None if pace is None else pace.mean
        return self._means[model]


def details(schedules: Schedules, schedule: Schedule, paces: Paces) -> ScheduleDetails:
    """Return all that is known of a schedule. What cannot be read of it is remarked."""
    now = schedules.now()
    history = schedules.history(schedule, limit=_LAST)
    kept: StoredOrder | None = None
    with suppress(InvalidInput):  # the form says it
        kept = kept_order(schedule)
    return ScheduleDetails(
        **ScheduleForm.of(schedule, now).model_dump(),
        why=why_not(schedule, history[0] if history else None),
        next_times=next_times(schedule, now),
        order=None if kept is None else OrderForm.of(kept, paces.seconds(kept.work)),
        history=[FiringForm.of(firing) for firing in history],
    )


def next_times(schedule: Schedule, now: float, *, at_most: int = _NEXT) -> list[float]:
    """Return a schedule's next times; none while it is paused, and of a plan that cannot be read."""
    if schedule.paused:
        return []
    try:
        return [*islice(times_after(schedule.plan, max(now, schedule.decided_to)), at_most)]
    except InvalidInput:
        return []


def why_not(schedule: Schedule, last: Firing | None) -> str | None:
    """Say why a schedule does not fire, or did not when it was due last; None: it did, or was not due yet."""
    if schedule.ended:
        return f"it has ended: {_became(schedule, last)}"
    if schedule.paused:
        return f"it is paused; `farm schedule resume {schedule.name}` resumes it"
    return None if last is None or last.outcome is FiringOutcome.FIRED else _became(schedule, last)


def _became(schedule: Schedule, last: Firing | None) -> str:
    if last is None:
        return "its time is past"
    when = in_zone(last.planned_at, schedule.plan.timezone)
    if last.outcome is FiringOutcome.FIRED:
        return (
            f"it fired as planned for {when}" if last.note is None else f"it fired as planned for {when}, {last.note}"
        )
    return f"that of {when} was {last.outcome}: {last.note or 'nobody knows why'}"
