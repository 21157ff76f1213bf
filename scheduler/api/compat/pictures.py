"""Submit an order, wait for it and encode its pictures: for protocols whose answers are pictures."""

import base64
import io
from contextlib import nullcontext

from PIL import ExifTags, Image

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.api.problems import Refused
from scheduler.api.signed_urls import Format
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Accepted, submit_order
from scheduler.results.follow import wait_for_render
from storage.renders.views import JobView
from storage.rules.states import State

#: A segment of a JPEG has 64 kB.
_MOST_EXIF_BYTES = 65_000


def rendered(
    context: ApiContext, caller: Caller, order: Order, terms: Terms, *, seconds: float, interruptible: bool = False
) -> tuple[Accepted, list[JobView]]:
    """Submit an order, wait for its end and return its jobs, all done.

    Args:
        interruptible: while it is waited for, the protocol's own `interrupt` may end it (`storage.renders.waits`);
            its jobs are then done or cancelled.

    Raises what submitting raises; Refused: 504 after so many seconds, 503 if the API is stopping (in both cases
    the render goes on), 409 if it was cancelled, 422 with the reason if a picture failed.
    """
    accepted = submit_order(context.intake, caller.submitter, order, terms)
    with context.waits.waiting(accepted.render_id) if interruptible else nullcontext(_nothing) as renew:
        render = wait_for_render(
            context.views, accepted.render_id, seconds=seconds, look=lambda _: bool(renew()), ending=context.ending
        )
    if not render.finished:
        status, why = (503, "the API is stopping") if context.ending.is_set() else (504, "it is not finished yet")
        raise Refused(
            status,
            f"render {render.id} continues: {why}; see GET /v1/renders/{render.id}",
            {"Retry-After": "10"},
        )
    jobs = list(context.views.jobs(render.id))
    for job in jobs:
        if job.state is State.CANCELLED and not interruptible:
            raise Refused(409, f"render {render.id} was cancelled")
        if job.state is State.FAILED:
            raise Refused(422, f"picture {job.index}: {job.error}")
    return accepted, jobs


def encoded(context: ApiContext, job: JobView, *, form: Format = "png", quality: int = 95) -> bytes:
    """Return a picture in the requested format; as PNG it is the stored file, with its recipe as metadata.

    JPEG and WebP carry what galleries read of the PNG (`parameters`) where the web UI writes it: in EXIF.
    """
    data = context.objects.get(str(job.object))
    if form == "png":
        return data
    with Image.open(io.BytesIO(data)) as picture:
        return converted(picture, form, quality)


def converted(picture: Image.Image, form: Format, quality: int) -> bytes:
    """Return a stored picture as JPEG or WebP, with the text that galleries read."""
    buffer = io.BytesIO()
    text = str(picture.info.get("parameters", ""))
    if len(text.encode("utf-16-be")) > _MOST_EXIF_BYTES:
        text = text.rpartition("\n")[2]  # the settings, without the prompts
    exif = Image.Exif()
    if text:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    picture.convert("RGB").save(buffer, form.upper(), quality=quality, exif=exif)
    return buffer.getvalue()


def _nothing() -> None:
    """Renew nothing: nobody can interrupt this wait."""


def as_base64(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode()
