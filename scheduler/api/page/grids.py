"""A render's pictures as a table whose columns, rows and blocks are the fields that differ."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Request, Response

from scheduler.api.context import Context
from scheduler.api.grids import GridQuery, pictures_to_arrange
from scheduler.api.page.serving import html, page_router
from scheduler.api.page.visitors import Visitor
from scheduler.api.parameters import RenderId
from scheduler.results.grid_axes import PLACES, Grid, arranged, differing
from scheduler.results.grid_sheet import GridSheet, title_of
from storage.errors import InvalidInput

router = page_router()


@router.get("/renders/{render_id}/grid")
def show_grid(
    request: Request, context: Context, render_id: RenderId, caller: Visitor, which: Annotated[GridQuery, Depends()]
) -> Response:
    """Show the grid whose axes are asked for, or chosen; what these can be, where that is not clear."""
    render = context.render(caller, render_id)
    jobs = pictures_to_arrange(context, caller, render_id, which)
    grid: Grid | None = None
    notes: list[str] = []
    problem = ""
    try:
        grid = arranged(jobs, which.named)
        notes = GridSheet(grid=grid, objects=context.objects, title=title_of(render)).notes()
    except InvalidInput as error:
        problem = str(error)
    axes = [] if grid is None else [grid.x, grid.y, grid.z]
    shown = {place: axis.title.partition(", ")[0] for place, axis in zip(PLACES, axes, strict=False)}
    return html(
        request,
        "grid.html",
        # Where nothing was named, nothing was wrong: they are to be named.
        status=422 if problem and which.named else 200,
        render=render,
        grid=grid,
        notes=notes,
        problem=problem,
        names=differing(jobs),
        # As they were asked for; chosen ones are shown as such.
        shown={place: which.asked.get(place, shown.get(place, "")) for place in PLACES},
        label=which.label,
        image=urlencode(which.asked),
    )
