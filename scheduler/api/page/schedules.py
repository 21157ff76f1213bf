"""Pages of schedules: what fires when, what became of it, and why it did not."""

from fastapi import Request, Response

from scheduler.api import schedules as api
from scheduler.api.context import Context
from scheduler.api.page.serving import go_to, html, page_router
from scheduler.api.page.visitors import Sender, Visitor

router = page_router()


@router.get("/schedules")
def show_schedules(request: Request, context: Context, caller: Visitor) -> Response:
    """Show the schedules; to an admin, every owner's."""
    found = api.list_schedules(context, caller)
    # What became of the last time, and why it does not fire: of the visitor's own, as the API tells it.
    details = {one.name: api.get_schedule(context, one.name, caller) for one in found if one.owner == caller.owner}
    return html(request, "schedules.html", schedules=found, details=details)


@router.get("/schedules/{name}")
def show_schedule(request: Request, context: Context, name: api.Name, caller: Visitor) -> Response:
    """Show a schedule: its order, next times, last runs, and why it does not run."""
    schedule = api.get_schedule(context, name, caller)
    return html(request, "schedule.html", schedule=schedule, history=api.get_history(context, name, caller, 50))


@router.post("/schedules/{name}/stop")
def pause(request: Request, context: Context, name: api.Name, caller: Sender) -> Response:
    """Pause a schedule."""
    api.pause_schedule(context, name, caller)
    return go_to(request, f"/schedules/{name}", "Paused.")


@router.post("/schedules/{name}/resume")
def resume(request: Request, context: Context, name: api.Name, caller: Sender) -> Response:
    """Resume a paused schedule."""
    api.resume(context, name, caller)
    return go_to(request, f"/schedules/{name}", "Resumed; missed runs are not made up for.")


@router.post("/schedules/{name}/run")
def run_now(request: Request, context: Context, name: api.Name, caller: Sender) -> Response:
    """Run a schedule once now."""
    form = api.run_schedule_now(context, name, caller)
    said = " ".join(filter(None, (f"{form.outcome}.", form.note, form.why)))
    if form.render_id is None:
        return go_to(request, f"/schedules/{name}", said)
    return go_to(request, f"/renders/{form.render_id}", said)
