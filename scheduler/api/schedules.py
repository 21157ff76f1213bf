"""Routes of schedules: recurring renders."""

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.orders import order_of, terms_of
from scheduler.api.problems import RESPONSES
from scheduler.api.request_bodies import RenderBody
from scheduler.cron.acceptance import acceptance_of
from scheduler.cron.changes import PlanChange, resume_schedule
from scheduler.cron.json_forms import FiringForm, RunNowForm, ScheduleForm
from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import check_number
from storage.errors import BadSpecification
from storage.renders.schedules import NAME

Name = Annotated[str, Path(pattern=NAME, description="Such as `nightly`.")]


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
    limits: LimitsBody | None = None

    def change(self) -> PlanChange:
        """Return what was said."""
        limits = {} if self.limits is None else self.limits.model_dump(exclude_unset=True)
        names = ("cron", "at", "timezone", "window", "overlap", "catch_up", "seeds")
        gone = {name for name in ("window", "limits") if name in self.model_fields_set and getattr(self, name) is None}
        return PlanChange(**self.model_dump(include={*names}), limits=limits, without=frozenset(gone))


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

    name: Annotated[str, Field(pattern=NAME)]
    render: RenderBody


def _check_render(render: RenderBody) -> None:
    """Refuse what renders have and schedules say otherwise. Raises BadSpecification."""
    if render.dry_run:
        raise BadSpecification("render.dry_run: not allowed in a schedule; use POST /v1/renders for a dry run")
    for name in ("not_before", "window", "timezone"):
        if getattr(render, name) is not None:
            raise BadSpecification(
                f"render.{name}: not allowed in a schedule, which says beside `render` when it fires"
            )


router = APIRouter(prefix="/v1/schedules", tags=["schedules"], responses=RESPONSES, route_class=JsonRoute)


@router.post("", status_code=201)
def add_schedule(context: Context, body: ScheduleBody, caller: CanSubmit) -> ScheduleForm:
    """Add a schedule. Its order is checked now; its name must be unused."""
    _check_render(body.render)
    plan, remarks = body.change().new(timezone="UTC", now=context.schedules.now())
    if body.seeds is None and body.render.seed is not None:
        plan = replace(plan, seeds="same")
    terms = terms_of(context, caller, body.render)
    check_number(body.render.jobs, caller.submitter.limits)
    with order_of(context, caller, body.render) as order:
        kept = store_order(context.intake, caller.submitter, order, terms, same_seeds=plan.seeds == "same")
    zone = [] if body.timezone is not None else ["timezone: UTC, since none was given"]
    stored = kept.remarked(zone + remarks).model_dump(mode="json")
    made = context.schedules.add(owner=caller.owner, name=body.name, plan=plan, order=stored)
    return ScheduleForm.of(made, context.schedules.now())


@router.get("")
def list_schedules(context: Context, caller: CanRead) -> list[ScheduleForm]:
    """List your schedules; with an admin key, every owner's."""
    now = context.schedules.now()
    return [ScheduleForm.of(one, now) for one in context.schedules.all(owner=caller.sees)]


@router.get("/{name}")
def get_schedule(context: Context, name: Name, caller: CanRead) -> ScheduleForm:
    """Return a schedule and its next run."""
    return ScheduleForm.of(context.schedules.get(name, owner=caller.owner), context.schedules.now())


@router.get("/{name}/history")
def get_history(
    context: Context,
    name: Name,
    caller: CanRead,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of runs.")] = 100,
) -> list[FiringForm]:
    """List the past runs of a schedule, newest first."""
    return [
        FiringForm.of(one)
        for one in context.schedules.history(context.schedules.get(name, owner=caller.owner), limit=limit)
    ]


@router.post("/{name}/pause")
def pause_schedule(context: Context, name: Name, caller: CanSubmit) -> ScheduleForm:
    """Pause a schedule until it is resumed. Idempotent."""
    context.schedules.pause(context.schedules.get(name, owner=caller.owner))
    return ScheduleForm.of(context.schedules.get(name, owner=caller.owner), context.schedules.now())


@router.post("/{name}/resume")
def resume(context: Context, name: Name, caller: CanSubmit) -> ScheduleForm:
    """Resume a paused schedule; missed runs are not made up for. Idempotent."""
    resume_schedule(context.schedules, context.schedules.get(name, owner=caller.owner))
    return ScheduleForm.of(context.schedules.get(name, owner=caller.owner), context.schedules.now())


@router.post("/{name}/run-now", status_code=202)
def run_schedule_now(context: Context, name: Name, caller: CanSubmit) -> RunNowForm:
    """Run a schedule once now, whatever its plan says."""
    found = context.schedules.get(name, owner=caller.owner)
    render_id = acceptance_of(context.services, context.tickets).fire_by_hand(found)
    last = context.schedules.history(found, limit=1)
    return RunNowForm(name=name, render_id=render_id, outcome=last[0].outcome if last else None)


@router.delete("/{name}", status_code=204)
def remove_schedule(context: Context, name: Name, caller: CanSubmit) -> None:
    """Remove a schedule and its history; its renders stay, and held ones stay held."""
    context.schedules.remove(context.schedules.get(name, owner=caller.owner))
