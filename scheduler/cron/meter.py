"""Measure a firing while its pictures are read: how many they are, and how long they take a device."""

from collections import Counter
from collections.abc import Iterable, Iterator

from scheduler.intake.moments import day_of, in_zone, opens_at
from scheduler.intake.pace import pace_of, work
from storage.jobs.values import NewJob
from storage.renders.firing_limits import FiringSize
from storage.renders.measures import Measures
from storage.renders.schedules import Plan, Schedule
from storage.spec.registry import Registry


class OverLimit(Exception):
    """Raised while the pictures of a firing are read, as soon as they are more than its schedule's limit."""


class Meter:
    """Counts and weighs the pictures that pass."""

    def __init__(self, schedule: Schedule, planned_at: float, registry: Registry, measures: Measures) -> None:
        """Prepare to measure a firing that is planned for then."""
        self._plan = schedule.plan
        self._planned_at = planned_at
        self._registry = registry
        self._measures = measures
        limits = schedule.plan.limits
        self._weighs = limits.device_minutes is not None or limits.device_minutes_per_day is not None
        self._pictures = 0
        self._work: Counter[str] = Counter()
        self._device_seconds: float | None = None
        self._unknown: list[str] = []

    def through(self, jobs: Iterable[NewJob]) -> Iterator[NewJob]:
        """Yield the pictures. Raises OverLimit."""
        most = self._plan.limits.pictures
        for one in jobs:
            self._pictures += 1
            if most is not None and self._pictures > most:
                raise OverLimit(f"more pictures than its limit of {most:,} for one firing")
            if self._weighs:
                self._work[one.spec.model] += work(one.spec, self._registry[one.spec.model])
            yield one
        # Before the transaction that accepts them, which asks nobody.
        if self._weighs:
            self._weigh()

    def size(self, *, held: bool, now: float) -> FiringSize:
        """Return what was measured; `held`: its window is shut now."""
        notes = [_waits(self._plan, now)] if held else []
        if self._unknown:
            notes.append(
                f"its device minutes are unknown, so their limit was not checked: nothing was rendered lately with "
                f"{', '.join(self._unknown)}"
            )
        return FiringSize(
            pictures=self._pictures,
            device_seconds=self._device_seconds,
            day=day_of(self._planned_at, self._plan.timezone),
            note="; ".join(notes) or None,
        )

    def _weigh(self) -> None:
        paces = {model: pace_of(self._measures.samples(model), self._registry[model]) for model in self._work}
        self._unknown = sorted(model for model, pace in paces.items() if pace is None)
        if not self._unknown:
            self._device_seconds = sum(pace.mean * self._work[model] for model, pace in paces.items() if pace)


def _waits(plan: Plan, now: float) -> str:
    opens = in_zone(opens_at(plan.window, plan.timezone, now), plan.timezone)
    return f"outside its window {plan.window}, held until {opens}"
