"""A render's page: how far it is, its pictures, and what can be done with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Form, Query, Request, Response

from scheduler.api import renders as api
from scheduler.api.access import Caller
from scheduler.api.context import ApiContext, Context
from scheduler.api.list_queries import JobQuery
from scheduler.api.page.looks import SharedLook, look_of
from scheduler.api.page.paces import Advancing, advancing
from scheduler.api.page.serving import go_to, page_router, shared_html
from scheduler.api.page.visitors import Sender, Visitor
from scheduler.api.page.words import counted
from scheduler.api.parameters import RenderId
from scheduler.api.request_bodies import PatchBody
from scheduler.results.grid_axes import differing
from storage.renders.views import RenderView
from storage.rules.states import PriorityName, State

_TILES = 60
#: Pictures that are looked at for axes of a grid, and axes that are named.
_LOOKED_AT, _SHOWN_AXES = 100, 3

router = page_router()


@router.get("/renders/{render_id}")
def show_render(
    request: Request,
    context: Context,
    render_id: RenderId,
    caller: Visitor,
    which: Annotated[JobQuery, Depends()],
    state: Annotated[State | None, Query()] = None,
    after: Annotated[int, Query(ge=-1, le=10**9)] = -1,
) -> Response:
    """Show a render and such of its pictures, a page at a time."""
    look = look_of(request, context, render_id=render_id)
    asked = api.JobsAsked(which, state, after, _TILES)
    return shared_html(request, "render.html", look, lambda: _seen(context, render_id, caller, asked, look))


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What all pages of a render show of it, whichever of its pictures they are at."""

    #: Noted before: what happened since may be missing.
    place: str
    last_event: int | None
    view: RenderView
    advancing: Advancing
    grid_axes: Sequence[str]
    shares: Mapping[int, float]


def _head(context: ApiContext, render_id: str, caller: Caller, look: SharedLook) -> _Head:
    """Look at a render; for whoever sees the same owner's. Raises NotFound."""
    place, last_event = context.farm_followers.place, context.events.last(render_id)
    view = context.render(caller, render_id)
    return _Head(
        place=place,
        last_event=last_event,
        view=view,
        advancing=advancing(context, view, look),
        grid_axes=_axes(context, view),
        shares=context.views.progress(render_id) if view.running else {},
    )


def _seen(
    context: ApiContext, render_id: str, caller: Caller, which: api.JobsAsked, look: SharedLook
) -> Mapping[str, Any]:
    head = look.once(("render", caller.sees, render_id), lambda: _head(context, render_id, caller, look))
    page = api.jobs_page(context, head.view, which)
    filters = {**asdict(which.which), "state": which.state}
    asked = {name: value for name, value in filters.items() if value is not None}
    return {
        "render": head.advancing.form,
        "advancing": head.advancing,
        "jobs": page.jobs,
        "progress": head.shares,
        "next_page": None if page.next is None else urlencode({**asked, "after": page.next}),
        "first_page": None if which.after < 0 else urlencode(asked),
        # Of all pictures, it is known where the page before begins.
        "page_before": None if asked or which.after < _TILES else urlencode({"after": which.after - _TILES}),
        "asked": filters,
        "narrowed": bool(asked),
        "states": list(State),
        "place": head.place,
        "last_event": head.last_event,
        "previews": context.previews is not None,
        "grid_axes": head.grid_axes,
    }


def _axes(context: ApiContext, render: RenderView) -> list[str]:
    """Return what the axes of a finished render's grid can be, as its first pictures tell; of others, nothing."""
    if render.finished_at is None or render.total < 2:
        return []
    jobs = context.views.jobs(render.id, limit=_LOOKED_AT)
    return [name for name in differing(jobs) if name != "seed"][:_SHOWN_AXES]


@router.post("/renders/{render_id}/on-hold")
def hold(request: Request, context: Context, render_id: RenderId, caller: Sender) -> Response:
    """Hold a render."""
    render = api.hold_render(context, render_id, caller)
    held = render.state == "held"
    said = "Held: what waits is out of the queue." if held else f"Nothing of it waits: the render is {render.state}."
    return go_to(request, f"/renders/{render_id}", said)


@router.post("/renders/{render_id}/off-hold")
def release(request: Request, context: Context, render_id: RenderId, caller: Sender) -> Response:
    """Release a render."""
    was = context.render(caller, render_id).state
    render = api.release_render(context, render_id, caller)
    # It was released in another tab, or cancelled.
    said = "Released" if was == "held" else "Nothing of it was held"
    return go_to(request, f"/renders/{render_id}", f"{said}: the render is {render.state}.")


@router.post("/renders/{render_id}/priority")
def set_priority(
    request: Request, context: Context, render_id: RenderId, caller: Sender, priority: Annotated[PriorityName, Form()]
) -> Response:
    """Change the priority of what waits of a render."""
    render = api.change_render(context, render_id, caller, PatchBody(priority=priority))
    return go_to(request, f"/renders/{render_id}", f"The priority is {render.priority} now.")


@router.post("/renders/{render_id}/cancel")
def cancel(request: Request, context: Context, render_id: RenderId, caller: Sender) -> Response:
    """Cancel what is unfinished of a render."""
    answer = api.cancel_render(context, render_id, caller)
    said = f"{counted(answer.cancelled, 'picture')} cancelled." if answer.cancelled else "Nothing was left to cancel."
    return go_to(request, f"/renders/{render_id}", said)


@router.post("/renders/{render_id}/retry")
def retry(request: Request, context: Context, render_id: RenderId, caller: Sender) -> Response:
    """Queue again what failed of a render."""
    answer = api.retry_render(context, render_id, caller)
    said = f"{counted(answer.retried, 'picture')} in the queue again." if answer.retried else "None of it has failed."
    return go_to(request, f"/renders/{render_id}", said)


@router.post("/renders/{render_id}/delete")
def delete(request: Request, context: Context, render_id: RenderId, caller: Sender) -> Response:
    """Delete a render with its pictures."""
    api.cancel_render(context, render_id, caller, purge=True)
    return go_to(request, "/", f"Render {render_id} is deleted, with its pictures.")
