"""Routes of schedules: recurring renders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Query

from scheduler.api.access import Caller, CanRead, CanSubmit
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.orders import order_of, terms_of
from scheduler.api.problems import RESPONSES
from scheduler.api.schedule_bodies import ScheduleBody, ScheduledRenderBody, ScheduleEditBody
from scheduler.cron.by_hand import run_now
from scheduler.cron.changes import resume_schedule
from scheduler.cron.details import Paces, details
from scheduler.cron.edits import Editor, OrderChange
from scheduler.cron.json_forms import FiringForm, RunNowForm, ScheduleDetails, ScheduleForm
from scheduler.cron.stored_orders import KeptSource, kept_order, store_order
from scheduler.intake.admission import check_number
from scheduler.intake.order import Order
from scheduler.intake.sources import opened_at_firing
from scheduler.results.outlook import outlook
from storage.errors import BadSpecification
from storage.renders.schedules import NAME, Schedule
from storage.rules.states import Priority

Name = Annotated[str, Path(pattern=NAME, description="Such as `nightly`.")]


router = APIRouter(prefix="/v1/schedules", tags=["schedules"], responses=RESPONSES, route_class=JsonRoute)


@router.post("", status_code=201)
def add_schedule(context: Context, body: ScheduleBody, caller: CanSubmit) -> ScheduleForm:
    """Add a schedule. Its order is checked now; its name must be unused."""
    plan, remarks = body.change().new(timezone="UTC", now=context.schedules.now())
    if body.seeds is None and body.render.seed is not None:
        plan = replace(plan, seeds="same")
    with _order_of(context, caller, body.render) as (order, source):
        kept = store_order(
            context.intake,
            caller.submitter,
            order,
            terms_of(context, caller, body.render),
            same_seeds=plan.seeds == "same",
            source=source,
        )
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
def get_schedule(context: Context, name: Name, caller: CanRead) -> ScheduleDetails:
    """Return a schedule: its order, its next times, its last runs, and why it does not run."""
    return _details(context, context.schedules.get(name, owner=caller.owner))


@router.patch("/{name}")
def edit_schedule(context: Context, name: Name, body: ScheduleEditBody, caller: CanSubmit) -> ScheduleDetails:
    """Change any part of a schedule; what is not given stays, its history too.

    It is changed before a run or after it, never in the middle; from now on it runs with your key.
    """
    found = context.schedules.get(name, owner=caller.owner)
    editor = Editor(schedules=context.schedules, intake=context.intake, settings=context.services.settings)
    priority = None if body.priority is None else Priority[body.priority.upper()]
    if body.render is None:
        fields = {} if body.model is None else {"model": body.model}
        change = OrderChange(fields=fields, priority=priority)
        return _details(context, editor.edit(found, body.change(), change, caller.submitter))
    if priority is None and "priority" not in body.render.model_fields_set:
        priority = kept_order(found).terms(held=False).priority
    with _order_of(context, caller, body.render) as (order, source):
        change = OrderChange(
            prompts=order,
            source=source,
            whole=True,
            seed=body.render.seed,
            priority=priority,
            terms=terms_of(context, caller, body.render),
        )
        return _details(context, editor.edit(found, body.change(), change, caller.submitter))


def _details(context: ApiContext, found: Schedule) -> ScheduleDetails:
    return details(context.schedules, found, Paces(context.registry, context.services.measures))


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
    """Run a schedule once now, whatever its plan says, and return its render, accepted: no scheduler process is needed.

    What a rule of the schedule forbids is not rendered; `note` says why, and `why` what an accepted render waits for.
    """
    form = run_now(context.services, context.tickets, context.schedules.get(name, owner=caller.owner))
    if form.render_id is None:
        return form
    why = outlook(context.services, context.render(caller, form.render_id))["why"]
    return form.model_copy(update={"why": why})


@router.delete("/{name}", status_code=204)
def remove_schedule(context: Context, name: Name, caller: CanSubmit) -> None:
    """Remove a schedule and its history; its renders stay, and held ones stay held."""
    context.schedules.remove(context.schedules.get(name, owner=caller.owner))


@contextmanager
def _order_of(
    context: ApiContext, caller: Caller, render: ScheduledRenderBody
) -> Iterator[tuple[Order, KeptSource | None]]:
    """Make an order of what a schedule is to render. Raises InvalidInput with the place of what is wrong."""
    if render.dry_run:
        raise BadSpecification("render.dry_run: not allowed in a schedule; use POST /v1/renders for a dry run")
    for name in ("not_before", "window", "timezone"):
        if getattr(render, name) is not None:
            raise BadSpecification(
                f"render.{name}: not allowed in a schedule, which says beside `render` when it fires"
            )
    check_number(render.jobs, caller.submitter.limits)
    if render.prompts_at_firing is None:
        with order_of(context, caller, render) as order:
            yield order, None
        return
    settings = context.services.settings
    _check_allowed(render.prompts_at_firing, settings.prompt_sources)
    with opened_at_firing(render.prompts_at_firing, settings, delimiter=render.delimiter) as rows:
        order = Order(manifest=rows, defaults=render.shared(), pictures_each=render.n, seed=render.seed)
        yield order, KeptSource(source=render.prompts_at_firing, delimiter=render.delimiter)


def _check_allowed(address: str, allowed: str) -> None:
    """Refuse what the farm could read and callers may not: other buckets, and its own. Raises BadSpecification."""
    places = [place.strip().rstrip("/") + "/" for place in allowed.split(",") if place.strip()]
    if not any(address.startswith(place) for place in places):
        where = f"it allows {', '.join(places)}" if places else "it allows none"
        raise BadSpecification(
            f"render.prompts_at_firing: {address[:80]} is not where this farm lets callers read (FARM_PROMPT_SOURCES); "
            f"{where}"
        )
