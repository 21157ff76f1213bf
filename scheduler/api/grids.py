"""Labelled grids over HTTP."""

import io
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import Caller, CanRead
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.list_queries import LabelQuery, check_text, read_label
from scheduler.api.parameters import RenderId
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.waiting.bounded import Stay
from scheduler.results.grid_axes import PLACES, arranged, pictures_of
from scheduler.results.grid_sheet import LEAST_SIDE, MOST_SIDE, SIDE, GridSheet, title_of
from storage.renders.views import JobView

router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)

_AxisName = Query(min_length=1, max_length=200)


@dataclass(frozen=True)
class GridQuery:
    """What to draw."""

    x: Annotated[str | None, _AxisName, Query(description="Field or label of the columns, such as `steps`.")] = None
    y: Annotated[str | None, _AxisName, Query(description="Field or label of the rows, such as `sampler`.")] = None
    z: Annotated[str | None, _AxisName, Query(description="Field or label of the blocks, such as `model`.")] = None
    label: LabelQuery = None
    cell: Annotated[
        int, Query(ge=LEAST_SIDE, le=MOST_SIDE, description="The longest side of a picture, in pixels.")
    ] = SIDE

    @property
    def asked(self) -> dict[str, str]:
        """What was given of it, as an address has it."""
        said = {"x": self.x, "y": self.y, "z": self.z, "label": self.label}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def named(self) -> dict[str, str]:
        """The axes by their place. Raises BadSpecification."""
        said = {place: name for place, name in zip(PLACES, (self.x, self.y, self.z), strict=True) if name is not None}
        for place, name in said.items():
            check_text(place, name)
        return said


def pictures_to_arrange(context: ApiContext, caller: Caller, render_id: str, which: GridQuery) -> list[JobView]:
    """Return the pictures of a grid. Raises NotFound, BadSpecification; InvalidInput if there are none."""
    context.render(caller, render_id)
    return pictures_of(context.views, render_id, read_label(which.label))


@router.get(
    "/renders/{render_id}/grid",
    tags=["renders"],
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The grid."}},
)
async def get_grid(
    context: Context, request: Request, render_id: RenderId, caller: CanRead, which: Annotated[GridQuery, Depends()]
) -> Response:
    """Draw a grid of a render's pictures (PNG), labelled by the fields that differ.

    Axes that are not named are chosen, where up to three fields differ; those that differ together are one. Pictures
    that are missing or failed are shown as such. At most 1,000 pictures.
    """

    def sheet_of() -> GridSheet:
        render = context.render(caller, render_id)
        grid = arranged(pictures_to_arrange(context, caller, render_id, which), which.named)
        return GridSheet(grid=grid, objects=context.objects, title=title_of(render), side=which.cell)

    sheet = await run_in_threadpool(sheet_of)

    def drawn(stay: Stay) -> bytes:
        def go_on(_drawn: int) -> None:
            stay()
            if context.ending.is_set():
                raise Refused(503, "the API is stopping", {"Retry-After": "10"})

        data = io.BytesIO()
        sheet.draw(go_on).save(data, "PNG")
        return data.getvalue()

    data = await context.grid_drawing.do(request, caller, drawn)
    headers = {"Content-Disposition": f'inline; filename="{render_id}-grid.png"', "Cache-Control": "no-store"}
    return Response(data, media_type="image/png", headers=headers)
