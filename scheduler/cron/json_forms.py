"""A schedule and its firings as JSON: the one form of `--json` and the HTTP API."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from scheduler.cron.plan import next_of, outside_remarks
from scheduler.cron.stored_orders import StoredOrder, kept_order
from storage.errors import InvalidInput
from storage.renders.schedules import Firing, FiringLimits, Schedule


class ScheduleForm(BaseModel):
    """Describe what is rendered, and when."""

    name: str
    owner: str
    cron: str | None = Field(description="Null if it fires once.")
    at: float | None = Field(description="When it fires, if that is once; seconds since 1970.")
    timezone: str
    window: str | None
    overlap: str
    catch_up: str
    seeds: str
    limits: FiringLimits = Field(
        description="The most that one firing, and all of a day of its time zone, may be; null: any amount."
    )
    paused: bool
    ended: bool = Field(description="Whether it has fired once, as it was to, or missed that.")
    pictures: int = Field(description="Per run, as it was checked last; 0 if its order cannot be read.")
    prompts_at_firing: str | None = Field(
        description="The prompt file that is read anew at each firing; null: its prompts are stored."
    )
    priority: str
    next_at: float | None = Field(
        description="Seconds since 1970; null while paused, once it has ended, and for a plan that cannot be read."
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
            coming = next_of(schedule.plan, max(now, schedule.decided_to))
            remarks = [] if schedule.ended else outside_remarks(schedule.plan, now=now)
        except InvalidInput as error:
            coming, remarks = None, [str(error)]
        return cls(
            name=schedule.name,
            owner=schedule.owner,
            **asdict(schedule.plan),
            paused=schedule.paused,
            ended=schedule.ended,
            pictures=kept.pictures,
            prompts_at_firing=kept.source,
            priority=kept.priority,
            next_at=None if schedule.paused else coming,
            remarks=[*remarks, *kept.remarks],
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


class OrderForm(BaseModel):
    """Describe what a schedule renders."""

    prompts: list[str] = Field(description="The first of them, as they were checked last.")
    templates: list[str]
    fields: dict[str, Any] = Field(description="Given once for all pictures.")
    zip: dict[str, list[Any]]
    product: dict[str, list[Any]]
    n: int = Field(description="Pictures per combination.")
    seed: int | None = Field(description="Of every run; null: drawn for each.")
    models: list[str]
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

    name: str
    render_id: str | None = Field(description="Null if its overlap rule forbids it now.")
    outcome: str | None = Field(description="fired or skipped")
