"""A schedule and its firings as JSON: the one form of `--json` and the HTTP API."""

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from scheduler.cron.plan import next_time
from scheduler.cron.stored_orders import StoredOrder, kept_order
from storage.errors import InvalidInput
from storage.renders.schedules import Firing, FiringOutcome, Schedule
from storage.rules.states import PriorityName, RenderState
from storage.rules.times import Time, rfc3339


class ScheduleForm(BaseModel):
    """Describe what is rendered, and when."""

    name: str = Field(description="Unique among its owner's.")
    owner: str = Field(description="Whose renders it submits.")
    cron: str = Field(description="When it is due, as cron writes it.")
    timezone: str = Field(description="Where that time is meant.")
    window: str | None = Field(description="Its pictures are rendered only at these times; null: at any time.")
    overlap: Literal["skip", "queue", "cancel"] = Field(
        description="What is done if the previous render is not finished."
    )
    catch_up: Literal["none", "last", "all"] = Field(description="Which missed runs are made up for.")
    seeds: Literal["fresh", "same"] = Field(description="New seeds for every run, or the same.")
    paused: bool = Field(description="Whether it is not due until it is resumed.")
    pictures: int = Field(description="Per run; 0 if its order cannot be read.")
    priority: PriorityName = Field(description="Of its renders.")
    next_at: float | None = Field(
        description="Seconds since 1970; null while paused, and for a plan that cannot be read."
    )
    next_time: Time | None = Field(description="The same as text (RFC 3339).")
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
            next_time=None if schedule.paused else rfc3339(coming),
            remarks=[*kept.remarks, *remarks],
        )


class FiringForm(BaseModel):
    """Describe what became of a planned run."""

    planned_at: float = Field(description="When it was due, seconds since 1970.")
    planned_time: Time = Field(description="The same as text (RFC 3339).")
    at: float = Field(description="When it was decided, seconds since 1970.")
    time: Time = Field(description="The same as text (RFC 3339).")
    outcome: FiringOutcome = Field(
        description="taken: it waits for its turn, or is being accepted (see the note); fired: its render is accepted."
    )
    render_id: str | None = Field(description="Its render; null if there is none.")
    render_state: RenderState | None = Field(description="How its render stands.")
    note: str | None = Field(description="Why it came to that, in a sentence.")

    @classmethod
    def of(cls, firing: Firing) -> "FiringForm":
        """Return the form of a firing."""
        times = {"planned_time": rfc3339(firing.planned_at), "time": rfc3339(firing.at)}
        return cls(**asdict(firing), **times)


class RunNowForm(BaseModel):
    """Describe what became of a run that was started by hand."""

    name: str = Field(description="Of the schedule.")
    render_id: str | None = Field(description="Null if its overlap rule forbids it now.")
    outcome: FiringOutcome | None = Field(description="fired or skipped")
