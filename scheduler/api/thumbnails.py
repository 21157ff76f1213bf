"""Thumbnails over HTTP: from the store, made where there is none yet, and kept by browsers."""

import time
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import CanRead
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.page.looks import SharedLooks
from scheduler.api.parameters import JobId, names_tag
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.waiting.bounded import Stay
from scheduler.results.thumbnails import Side
from storage.errors import NotFound
from storage.renders.views import JobView

#: A picture never changes. But who deletes one does not want it to be shown for ever.
_SECONDS = 86_400

router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)


@router.get(
    "/jobs/{job_id}/thumbnail",
    tags=["jobs"],
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}},
        304: {"description": "The caller has it: `If-None-Match` names its `ETag`."},
    },
)
async def get_thumbnail(
    context: Context,
    request: Request,
    job_id: JobId,
    caller: CanRead,
    size: Annotated[Side, Query(description="Of the longest side, in pixels; no picture is enlarged.")] = Side.GALLERY,
    if_none_match: Annotated[str | None, Header(description="An `ETag` of an earlier answer.")] = None,
) -> Response:
    """Return a small copy of the picture (WebP, without its recipe), made once and kept with the picture."""
    thumbnails, came_at = context.thumbnails, time.monotonic()

    def looked_for() -> tuple[JobView, bytes | None, bool]:
        # Pages that show the same picture ask at the same moment: those who came before it was read share its row.
        looks: SharedLooks = request.app.state.looks
        job = looks.get(("picture", caller.sees, job_id), came_at, lambda: context.job(caller, job_id))
        if job.object is None:
            raise Refused(404, f"job {job.id} is {job.state} and has no picture", code=ProblemCode.NO_PICTURE)
        known = names_tag(if_none_match, _etag(job, size))
        return job, None if known else thumbnails.kept(job, size), known

    def made(_stay: Stay) -> bytes:
        try:
            return thumbnails.make(job, size)
        except NotFound as error:
            raise Refused(404, str(error), code=ProblemCode.NO_PICTURE) from None

    job, data, known = await run_in_threadpool(looked_for)
    headers = {
        "ETag": _etag(job, size),
        "Cache-Control": f"private, max-age={_SECONDS}",
        # Of a browser whose user sends another key next.
        "Vary": "Authorization, X-API-Key, Cookie",
    }
    if known:
        return Response(status_code=304, headers=headers)
    if data is None:
        data = await context.thumbnail_making.do(request, caller, made)
    return Response(data, media_type="image/webp", headers=headers)


def _etag(job: JobView, side: Side) -> str:
    return f'"{job.sha256}-{side}"'
