"""The bodies of schedules: when to fire, how, and what to render."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scheduler.api.request_bodies import RenderBody
from scheduler.cron.changes import PlanChange
from storage.renders.schedules import NAME
from storage.rules.states import PriorityName


class LimitsBody(BaseModel):
    """Say how much may be fired; null: any amount. A firing that is more does not happen, and its history says so."""

    model_config = ConfigDict(extra="forbid")

    pictures: Annotated[int, Field(ge=1)] | None = Field(None, description="Of one firing.")
    device_minutes: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="Of one firing, on one device, by the pace that was measured."
    )
    pictures_per_day: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Of all firings that are planned for one day of the time zone."
    )
    device_minutes_per_day: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="Of all firings that are planned for one day of the time zone."
    )


class PlanBody(BaseModel):
    """Say when to fire, and how."""

    model_config = ConfigDict(extra="forbid")

    cron: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="Minute, hour, day of the month, month, day of the week; or @daily, @hourly, …"
    )
    at: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="Fire once, at this time of the time zone, or with an offset of its own (RFC 3339); instead of "
        "`cron`.",
        examples=["2026-12-01 02:00"],
    )
    timezone: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="A name such as Europe/Paris. Default: UTC."
    )
    window: str | None = Field(
        None, description="Render only at these times, such as 01:00-06:00; the rest waits for the next day."
    )
    overlap: Literal["skip", "queue", "cancel"] | None = Field(
        None, description="What to do if the previous render is not finished. Default: skip."
    )
    catch_up: Literal["none", "last", "all"] | None = Field(
        None,
        description="Which runs to make up for that were missed while the farm was down. Default: none, or last with "
        "`at`.",
    )
    seeds: Literal["fresh", "same"] | None = Field(
        None, description="New seeds for every run, or the same. Default: fresh, or the same if a seed is given."
    )
    limits: LimitsBody | None = Field(None, description="How much may be fired.")

    def change(self) -> PlanChange:
        """Return what was said."""
        limits = {} if self.limits is None else self.limits.model_dump(exclude_unset=True)
        names = ("cron", "at", "timezone", "window", "overlap", "catch_up", "seeds")
        gone = {name for name in ("window", "limits") if name in self.model_fields_set and getattr(self, name) is None}
        return PlanChange(**self.model_dump(include={*names}), limits=limits, without=frozenset(gone))


class ScheduledRenderBody(RenderBody):
    """Say what to render each time."""

    prompts_at_firing: Annotated[str, Field(pattern="^s3://", max_length=1000)] | None = Field(
        None,
        description="A prompt file that is read anew at each firing, s3://bucket/key, where FARM_PROMPT_SOURCES of the "
        "farm allows it.",
    )

    @model_validator(mode="after")
    def _one_file(self) -> "ScheduledRenderBody":
        if self.prompts_at_firing is not None and self.manifest is not None:
            raise ValueError("prompts_at_firing: not together with manifest")
        return self

    def _file(self) -> str | None:
        return super()._file() if self.prompts_at_firing is None else "prompts_at_firing"


class ScheduleBody(PlanBody):
    """Say what to render, and when."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "nightly",
                    "cron": "0 2 * * *",
                    "timezone": "Europe/Paris",
                    "window": "01:00-06:00",
                    "render": {"prompt": ["a red star", "a green circle"], "n": 4, "priority": "bulk"},
                }
            ]
        },
    )

    name: Annotated[str, Field(pattern=NAME, description="Unique among your schedules.")]
    render: ScheduledRenderBody = Field(description="What to render each time, as `POST /v1/renders` takes it.")


class ScheduleEditBody(PlanBody):
    """Say what to change; all else stays. `null` takes a window, or the limits, away."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"cron": "0 3 * * *", "limits": {"pictures_per_day": 500}}]},
    )

    render: ScheduledRenderBody | None = Field(None, description="What to render now, instead of all that was before.")
    model: Annotated[str, Field(max_length=63)] | None = Field(None, description="Of all its pictures.")
    priority: PriorityName | None = Field(None, description="The new priority.")

    @model_validator(mode="after")
    def _says_something(self) -> "ScheduleEditBody":
        if not self.model_fields_set:
            raise ValueError("nothing to change")
        if self.render is not None and self.model is not None:
            raise ValueError("model: given beside render, which says it itself")
        return self
