"""Submit an order, wait for it and encode its pictures: for protocols whose answers are pictures."""

import base64
import io
from typing import Literal

from PIL import Image

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.api.problems import Refused
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Accepted, submit_order
from scheduler.results.follow import wait_for_render
from storage.renders.views import JobView
from storage.rules.states import State

Format = Literal["png", "jpeg", "webp"]


def rendered(
    context: ApiContext, caller: Caller, order: Order, terms: Terms, *, seconds: float
) -> tuple[Accepted, list[JobView]]:
    """Submit an order, wait for its end and return its jobs, all done.

    Raises what submitting raises; Refused: 504 after so many seconds, while the render goes on, 409 if it was
    cancelled, 422 with the reason if a picture failed.
    """
    accepted = submit_order(context.intake, caller.submitter, order, terms)
    render = wait_for_render(context.views, accepted.render_id, seconds=seconds)
    if not render.finished:
        raise Refused(
            504,
            f"render {render.id} is not finished yet and continues; see GET /v1/renders/{render.id}",
            {"Retry-After": "10"},
        )
    jobs = list(context.views.jobs(render.id))
    for job in jobs:
        if job.state is State.CANCELLED:
            raise Refused(409, f"render {render.id} was cancelled")
        if job.state is not State.DONE:
            raise Refused(422, f"picture {job.index}: {job.error}")
    return accepted, jobs


def encoded(context: ApiContext, job: JobView, *, form: Format = "png", quality: int = 95) -> bytes:
    """Return a picture in the requested format; as PNG it is the stored file, with its recipe as metadata."""
    data = context.objects.get(str(job.object))
    if form == "png":
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.convert("RGB").save(buffer, form.upper(), quality=quality)
    return buffer.getvalue()


def as_base64(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode()
