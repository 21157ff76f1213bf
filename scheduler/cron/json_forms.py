"""A schedule and its firings as JSON: the one form of `--json` and the HTTP API."""

from dataclasses import asdict

from pydantic import BaseModel, Field

from scheduler.cron.plan import next_time
from scheduler.cron.stored_orders import StoredOrder, kept_order
from storage.errors import InvalidInput
from storage.renders.schedules import Firing, Schedule


class ScheduleForm(BaseModel):
    """Describe what is rendered, and when."""

    name: str
    owner: str
    cron: str
    timezone: str
    window: str | None
    overlap: str
    catch_up: str
    seeds: str
    paused: bool
    pictures: int = Field(description="Per run; 0 if its order cannot be read.")
    priority: str
    next_at: float | None = Field(
        description="Seconds since 1970; null while paused, and for a plan that cannot be read."
    )
    remarks: list[str] = Field(description="Warnings, such as a field that is ignored.")

    @classmethod
    def of(cls, schedule: Schedule, now: float) -> "ScheduleForm":
        """Return the form of a schedule at a time, in seconds since 1970. What cannot be read of it is remarked."""
        remarks: list[str] = []
        try:
            kept = kept_order(schedule)
        except InvalidInput as error:
            kept = StoredOrder(pictures=0, remarks=(str(error),))
        try:
            coming = next_time(schedule.plan.cron, schedule.plan.timezone, now)
        except InvalidInput as error:
            coming, remarks = None, [str(error)]
        return cls(
            name=schedule.name,
            owner=schedule.owner,
            **asdict(schedule.plan),
            paused=schedule.paused,
            pictures=kept.pictures,
            priority=kept.priority,
            next_at=None if schedule.paused else coming,
            remarks=[*kept.remarks, *remarks],
        )


class FiringForm(BaseModel):
    """Describe what became of a planned run."""

    planned_at: float = Field(description="Seconds since 1970.")
    at: float
    outcome: str = Field(
        description="taken (waits for its turn, or is being accepted: see the note), fired, skipped, missed or failed"
    )
    render_id: str | None
    render_state: str | None
    note: str | None

    @classmethod
    def of(cls, firing: Firing) -> "FiringForm":
        """Return the form of a firing."""
        return cls(**asdict(firing))


class RunNowForm(BaseModel):
    """Describe what became of a run that was started by hand."""

    name: str
    render_id: str | None = Field(description="Null if its overlap rule forbids it now.")
    outcome: str | None = Field(description="fired or skipped")
