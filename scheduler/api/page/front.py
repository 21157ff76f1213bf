"""The front page: the farm at a glance, and the renders."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response

from scheduler.api.access import Caller, let_in
from scheduler.api.context import ApiContext, Context
from scheduler.api.list_queries import RenderQuery
from scheduler.api.page.glance import glance
from scheduler.api.page.looks import SharedLook, look_of
from scheduler.api.page.paces import all_advancing
from scheduler.api.page.serving import error_page, page_router, shared_html
from scheduler.api.page.visitors import Visitor
from scheduler.api.problems import Refused
from scheduler.api.renders import renders_page
from storage.access.keys import Role
from storage.rules.states import RENDER_STATES

_ON_A_PAGE = 25

router = page_router()
After = Annotated[str | None, Query(pattern="^[0-9a-z]{1,32}$")]


@router.get("/renders")
def show_renders(
    request: Request,
    context: Context,
    caller: Visitor,
    which: Annotated[RenderQuery, Depends()],
    after: After = None,
) -> Response:
    """Show the farm, and those of the renders that are asked for."""
    return _front(request, context, caller, which, after)


def front_page(request: Request, context: ApiContext) -> Response:
    """Return the page at `/`, where programs get something else."""
    try:
        return _front(request, context, let_in(request, None, Role.READ), RenderQuery(), None)
    except Refused as error:
        return error_page(request, error)


def _front(request: Request, context: ApiContext, caller: Caller, which: RenderQuery, after: str | None) -> Response:
    look = look_of(request, context)
    return shared_html(request, "front.html", look, lambda: _seen(context, caller, which, after, look))


def _seen(
    context: ApiContext, caller: Caller, which: RenderQuery, after: str | None, look: SharedLook
) -> Mapping[str, Any]:
    # First: what happens from now on may be missing below.
    place = context.farm_followers.place
    found, following = renders_page(context, caller, which, after, _ON_A_PAGE)
    asked = {name: value for name, value in vars(which).items() if value is not None}
    return {
        "place": place,
        "glance": glance(context, caller, look),
        "renders": list(all_advancing(context, found, look)),
        "next_page": None if following is None else urlencode({**asked, "after": following}),
        "newest": None if after is None else urlencode(asked),
        "asked": vars(which),
        "narrowed": bool(asked),
        "states": RENDER_STATES,
        "models": list(context.registry.models),
    }
