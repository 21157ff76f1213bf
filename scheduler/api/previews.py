"""Previews over HTTP: how a picture looks that is being denoised, for whoever asks again and again."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from scheduler.api.access import CanRead
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.parameters import JobId, names_tag
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import RESPONSES, Refused
from storage.rules.states import FINAL, State

router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)


@router.get(
    "/jobs/{job_id}/preview",
    tags=["jobs"],
    response_class=Response,
    responses={
        200: {
            "content": {"image/webp": {}},
            "description": "The picture after so many of its steps; at most 256 pixels wide and high.",
            "headers": {
                "Preview-Step": {"description": "How many steps are made.", "schema": {"type": "integer"}},
                "Preview-Steps": {"description": "Of how many.", "schema": {"type": "integer"}},
            },
        },
        204: {
            "description": "There is none yet: ask again after `Retry-After` seconds.",
            "headers": {"Preview-Status": {"description": "Why, in words.", "schema": {"type": "string"}}},
        },
        304: {"description": "The caller has it: `If-None-Match` names its `ETag`."},
    },
)
def get_preview(
    context: Context,
    job_id: JobId,
    caller: CanRead,
    if_none_match: Annotated[str | None, Header(description="An `ETag` of an earlier answer.")] = None,
) -> Response:
    """Return how a picture looks that is being denoised (WebP), as long as somebody asks.

    Whoever asks counts as watching for ten seconds; workers make previews of what somebody watches, and of nothing
    else, in at most a fiftieth of their time. 404 for pictures that have none, or are finished.
    """
    job = context.job(caller, job_id)
    if job.state in FINAL:
        where = f"; GET /v1/jobs/{job.id}/image has its picture" if job.state is State.DONE else ""
        raise _none(f"job {job.id} is {job.state}: there are previews while it is rendered only{where}")
    if context.previews is None:
        raise _none("there are no previews: this API was started without a broker, through which they come")
    context.previews.watch([job.id])
    if job.state is not State.RUNNING:
        return _not_yet(job.state)
    found = context.previews.get([job.id]).get(job.id)
    if found is None or found.attempt != job.attempt:
        return _not_yet("running: asked for, and there after one of the next steps")
    if found.why_none is not None:
        raise _none(f"job {job.id} has no previews: {found.why_none}")
    headers = {
        "ETag": f'"{found.attempt}-{found.step}"',
        # Asked for each time: the next one has the same address.
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization, X-API-Key, Cookie",
        "Preview-Step": str(found.step),
        "Preview-Steps": str(found.steps),
    }
    if names_tag(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(found.image, media_type="image/webp", headers=headers)


def _none(why: str) -> Refused:
    return Refused(404, why, {"Cache-Control": "no-store"}, code=ProblemCode.NO_PREVIEW)


def _not_yet(status: str) -> Response:
    headers = {"Preview-Status": status, "Retry-After": "1", "Cache-Control": "no-store"}
    return Response(status_code=204, headers=headers)
