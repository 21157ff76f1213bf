"""Routes of schedules: recurring renders."""

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
from scheduler.cron.json_forms import FiringForm, RunNowForm, ScheduleForm
from scheduler.cron.plan import check_plan
from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import check_number
from storage.errors import BadSpecification
from storage.renders.schedules import NAME, Plan

Name = Annotated[str, Path(pattern=NAME, description="Such as `nightly`.")]


class ScheduleBody(BaseModel):
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
    cron: Annotated[str, Field(max_length=200)] = Field(
        description="Minute, hour, day of the month, month, day of the week; or @daily, @hourly, …"
    )
    timezone: Annotated[str, Field(max_length=64)] = Field("UTC", description="A name such as Europe/Paris.")
    window: str | None = Field(
        None, description="Render only at these times, such as 01:00-06:00; the rest waits for the next day."
    )
    overlap: Literal["skip", "queue", "cancel"] = Field(
        "skip", description="What to do if the previous render is not finished."
    )
    catch_up: Literal["none", "last", "all"] = Field(
        "none", description="Which runs to make up for that were missed while the farm was down."
    )
    seeds: Literal["fresh", "same"] | None = Field(
        None, description="New seeds for every run, or the same. Default: fresh, or the same if a seed is given."
    )
    render: RenderBody = Field(description="What to render each time, as `POST /v1/renders` takes it.")


router = APIRouter(prefix="/v1/schedules", tags=["schedules"], responses=RESPONSES, route_class=JsonRoute)


@router.post("", status_code=201)
def add_schedule(context: Context, body: ScheduleBody, caller: CanSubmit) -> ScheduleForm:
    """Add a schedule. Its order is checked now; its name must be unused."""
    check_plan(body.cron, body.timezone, body.window)
    if body.render.dry_run:
        raise BadSpecification("render.dry_run: not allowed in a schedule; use POST /v1/renders for a dry run")
    seeds = body.seeds or ("fresh" if body.render.seed is None else "same")
    terms = terms_of(context, caller, body.render)
    check_number(body.render.jobs, caller.submitter.limits)
    with order_of(context, caller, body.render) as order:
        kept = store_order(context.intake, caller.submitter, order, terms, same_seeds=seeds == "same")
    plan = Plan(**body.model_dump(include={"cron", "timezone", "window", "overlap", "catch_up"}), seeds=seeds)
    made = context.schedules.add(owner=caller.owner, name=body.name, plan=plan, order=kept.model_dump(mode="json"))
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
def resume_schedule(context: Context, name: Name, caller: CanSubmit) -> ScheduleForm:
    """Resume a paused schedule; missed runs are not made up for. Idempotent."""
    context.schedules.resume(context.schedules.get(name, owner=caller.owner))
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
