"""Submit an order, wait for it and encode its pictures: for protocols whose answers are pictures."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request, Response
from PIL import Image
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Accepted, submit_order
from scheduler.results.conversion import converted
from scheduler.results.signed_urls import Format
from storage.errors import NotFound
from storage.renders.views import JobView
from storage.rules.states import State


@dataclass(frozen=True, kw_only=True)
class Call:
    """Hold whose request it is, and how long it may wait for its pictures."""

    context: ApiContext
    caller: Caller
    request: Request
    seconds: float
    #: While it is waited for, the protocol's own `interrupt` may end it (`storage.renders.waits`); its jobs are then
    #: done or cancelled.
    interruptible: bool = False


async def rendered(
    call: Call, asked: Callable[[], tuple[Order, Terms]], answer: Callable[[Accepted, list[JobView]], BaseModel]
) -> Response:
    """Submit an order, wait for its end and return the answer about its jobs, all done.

    Args:
        asked: what to submit; called in a thread, as is `answer`.

    Raises what submitting raises; Refused: 429 or 503 if too many wait, before anything is submitted; 504 after the
    call's seconds, 503 if the API is stopping (in both cases the render goes on), 409 if it was cancelled, 422 with
    the reason if a picture failed, 401 if the caller's key was revoked meanwhile (the render goes on).
    """
    context = call.context

    def submitted() -> Accepted:
        order, terms = asked()
        return submit_order(context.intake, call.caller.submitter, order, terms)

    def answered() -> Response:
        made = answer(accepted, finished_jobs(call, accepted.render_id))
        # Written here: megabytes of pictures take their time.
        return Response(made.model_dump_json(), media_type="application/json")

    with context.waiters.places.taken(call.caller):
        accepted = await run_in_threadpool(submitted)
        await context.waiters.wait(
            call.request, accepted.render_id, call.caller, seconds=call.seconds, interruptible=call.interruptible
        )
        return await run_in_threadpool(answered)


def finished_jobs(call: Call, render_id: str) -> list[JobView]:
    """Return the jobs of a render that was waited for. Raises Refused, and NotFound if it was deleted meanwhile."""
    context = call.context
    render = context.views.render(render_id)
    if not render.finished:
        status, why = (503, "the API is stopping") if context.ending.is_set() else (504, "it is not finished yet")
        raise Refused(
            status,
            f"render {render.id} continues: {why}; see GET /v1/renders/{render.id}",
            {"Retry-After": "10"},
        )
    jobs = list(context.views.jobs(render.id))
    if not jobs:
        raise NotFound(f"no render with id {render.id!r}; it was deleted")
    for job in jobs:
        if job.state is State.CANCELLED and not call.interruptible:
            raise Refused(409, f"render {render.id} was cancelled", code=ProblemCode.RENDER_CANCELLED)
        if job.state is State.FAILED:
            raise Refused(422, f"picture {job.index}: {job.error}", code=ProblemCode.RENDER_FAILED)
    return jobs


def encoded(context: ApiContext, job: JobView, *, form: Format = "png", quality: int = 95) -> bytes:
    """Return a picture in the requested format; as PNG it is the stored file. All carry its recipe."""
    data = context.file_of(job)
    if form == "png":
        return data
    with Image.open(io.BytesIO(data)) as picture:
        return converted(picture, form, quality)


def as_png(data: bytes) -> bytes:
    """Return a small picture as PNG, whatever it is."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def as_base64(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode()
