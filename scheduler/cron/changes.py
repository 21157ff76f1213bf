"""What is said of a schedule's plan, when it is made and when it is edited, whichever way it came in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.cron.plan import check_once, check_plan, past
from scheduler.intake.moments import moment
from storage.errors import BadSpecification, InvalidInput
from storage.renders.schedules import FiringLimits, Plan, Schedule, Schedules

_CATCH_UP = "none"
#: What is to happen once happens late, where nothing else was said.
_CATCH_UP_ONCE = "last"


@dataclass(frozen=True, kw_only=True)
class PlanChange:
    """Hold what was given; None: nothing was."""

    cron: str | None = None
    #: As it is written: `2026-12-01 02:00`.
    at: str | None = None
    timezone: str | None = None
    window: str | None = None
    overlap: str | None = None
    catch_up: str | None = None
    seeds: str | None = None
    #: By the names of `FiringLimits`; None takes a limit away.
    limits: Mapping[str, Any] = field(default_factory=dict)
    #: What is taken away: `window`, `limits`.
    without: frozenset[str] = frozenset()

    def new(self, *, timezone: str, now: float) -> tuple[Plan, list[str]]:
        """Return the plan of a new schedule, with remarks; `timezone` is that where none was given.

        What fires once makes up for it if that was missed, unless something else was said. Raises BadSpecification.
        """
        if (self.cron is None) == (self.at is None):
            given = "neither was given" if self.cron is None else "both were given"
            raise BadSpecification(f"cron: either cron or at says when to fire, and {given}")
        blank = Plan(
            cron=self.cron,
            timezone=timezone,
            window=None,
            overlap="skip",
            catch_up=_CATCH_UP if self.at is None else _CATCH_UP_ONCE,
            seeds="fresh",
        )
        return self.applied(blank, now=now)

    def applied(self, before: Plan, *, now: float) -> tuple[Plan, list[str]]:
        """Return the plan with what was given, with remarks. Raises BadSpecification."""
        if self.cron is not None and self.at is not None:
            raise BadSpecification("cron: either cron or at says when to fire, and both were given")
        names = ("timezone", "window", "overlap", "catch_up", "seeds")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "window" in self.without:
            given["window"] = None
        limits = replace(FiringLimits() if "limits" in self.without else before.limits, **self.limits)
        if self.catch_up is None and (before.cron if self.at else before.at) is not None and (self.at or self.cron):
            given["catch_up"] = _CATCH_UP_ONCE if self.at else _CATCH_UP  # it fires in another way than before
        plan, remarks = replace(before, **given, limits=limits), []
        if self.at is not None:
            at, remark = moment(self.at, plan.timezone, field="at")
            plan, remarks = replace(plan, cron=None, at=at), [] if remark is None else [remark]
        elif self.cron is not None:
            plan = replace(plan, cron=self.cron, at=None)
        _check(plan, before, now)
        return plan, remarks


def _check(plan: Plan, before: Plan, now: float) -> None:
    for name, limit in plan.limits.__dict__.items():
        if limit is not None and not 0 < limit < math.inf:
            raise BadSpecification(f"{name}: {limit} is not a limit; expected a number above 0")
    if plan.cron is not None:
        check_plan(plan.cron, plan.timezone, plan.window)
    elif plan.at is not None:
        # One that has ended may be edited without another time.
        check_once(plan.at, plan.timezone, plan.window, now=now if plan.at != before.at else 0.0)


def resume_schedule(schedules: Schedules, schedule: Schedule) -> None:
    """Resume a paused schedule from now on; what went by while it was paused is noted in its history. Idempotent."""
    schedules.resume(schedule, undecided_times(schedule, schedules.now()) if schedule.paused else ())


def undecided_times(schedule: Schedule, now: float) -> list[float]:
    """Return the planned times that went by and that no scheduler process has decided; none if its plan is unreadable.

    That happens while no scheduler process runs, or within a second.
    """
    try:
        return past(schedule.plan, after=schedule.decided_to, now=now)
    except InvalidInput:
        return []
