"""A schedule and its firings as JSON: the one form of `--json` and the HTTP API."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from scheduler.cron.plan import next_of, outside_remarks
from scheduler.cron.stored_orders import StoredOrder, kept_order
from storage.errors import InvalidInput
from storage.renders.schedules import Firing, FiringOutcome, Schedule
from storage.rules.states import PriorityName, RenderState
from storage.rules.times import Time, rfc3339


class LimitsForm(BaseModel):
    """Describe how much a schedule may have rendered; null: any amount."""

    pictures: int | None = Field(description="Of one firing.")
    device_minutes: float | None = Field(description="Of one firing, on one device.")
    pictures_per_day: int | None = Field(description="Of all firings that are planned for one day of its time zone.")
    device_minutes_per_day: float | None = Field(description="Of all firings that are planned for one day.")


class ScheduleForm(BaseModel):
    """Describe what is rendered, and when."""

    name: str = Field(description="Unique among its owner's.")
    owner: str = Field(description="Whose renders it submits.")
    cron: str | None = Field(description="When it is due, as cron writes it; null: it fires once.")
    at: float | None = Field(description="When it fires, if that is once; seconds since 1970.")
    time: Time | None = Field(description="The same as text (RFC 3339).")
    timezone: str = Field(description="Where that time is meant.")
    window: str | None = Field(description="Its pictures are rendered only at these times; null: at any time.")
    overlap: Literal["skip", "queue", "cancel"] = Field(
        description="What is done if the previous render is not finished."
    )
    catch_up: Literal["none", "last", "all"] = Field(description="Which missed runs are made up for.")
    seeds: Literal["fresh", "same"] = Field(description="New seeds for every run, or the same.")
    limits: LimitsForm = Field(
        description="The most that one firing, and all of a day of its time zone, may be; null: any amount."
    )
    paused: bool = Field(description="Whether it is not due until it is resumed.")
    ended: bool = Field(description="Whether it has fired once, as it was to, or missed that.")
    pictures: int = Field(description="Per run, as it was checked last; 0 if its order cannot be read.")
    prompts_at_firing: str | None = Field(
        description="The prompt file that is read anew at each firing; null: its prompts are stored."
    )
    priority: PriorityName = Field(description="Of its renders.")
    next_at: float | None = Field(
        description="Seconds since 1970; null while paused, once it has ended, and for a plan that cannot be read."
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
            coming = next_of(schedule.plan, max(now, schedule.decided_to))
            remarks = [] if schedule.ended else outside_remarks(schedule.plan, now=now)
        except InvalidInput as error:
            coming, remarks = None, [str(error)]
        return cls(
            name=schedule.name,
            owner=schedule.owner,
            **asdict(schedule.plan),
            time=rfc3339(schedule.plan.at),
            paused=schedule.paused,
            ended=schedule.ended,
            pictures=kept.pictures,
            prompts_at_firing=kept.source,
            priority=kept.priority,
            next_at=None if schedule.paused else coming,
            next_time=None if schedule.paused else rfc3339(coming),
            remarks=[*remarks, *kept.remarks],
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


class OrderForm(BaseModel):
    """Describe what a schedule renders."""

    prompts: list[str] = Field(description="The first of them, as they were checked last.")
    templates: list[str] = Field(description="From which prompts are made.")
    fields: dict[str, Any] = Field(description="Given once for all pictures.")
    zip: dict[str, list[Any]] = Field(description="Lists of values that go in step.")
    product: dict[str, list[Any]] = Field(description="Lists of values that are combined.")
    n: int = Field(description="Pictures per combination.")
    seed: int | None = Field(description="Of every run; null: drawn for each.")
    models: list[str] = Field(description="Of its pictures, by alias.")
    device_seconds: float | None = Field(
        description="How long a run takes one device by the pace that was measured; null: unknown."
    )

    @classmethod
    def of(cls, kept: StoredOrder, device_seconds: float | None) -> "OrderForm":
        """Return the form of an order."""
        return cls(
            prompts=[*kept.shown],
            templates=[] if kept.templates is None else [*kept.templates.texts],
            fields=kept.defaults,
            zip=kept.in_step,
            product=kept.combined,
            n=kept.pictures_each,
            seed=kept.seed,
            models=sorted(kept.work or {}),
            device_seconds=device_seconds,
        )


class ScheduleDetails(ScheduleForm):
    """Describe all that is known of a schedule."""

    why: str | None = Field(description="Why it does not fire, or did not when it was due last; null: it did.")
    next_times: list[float] = Field(description="The next five, in seconds since 1970; empty while it is paused.")
    order: OrderForm | None = Field(description="Null if it cannot be read.")
    history: list[FiringForm] = Field(description="The last five firings, newest first.")


class RunNowForm(BaseModel):
    """Describe what became of a run that was started by hand."""

    name: str = Field(description="Of the schedule.")
    render_id: str | None = Field(
        description="Of the render, which is accepted and can be followed; null if a rule forbids it now."
    )
    outcome: FiringOutcome = Field(description="fired or skipped")
    note: str | None = Field(description="Why it was skipped, or what is to be known of it.")
    why: str | None = Field(default=None, description="What its render waits for, if for anything.")
