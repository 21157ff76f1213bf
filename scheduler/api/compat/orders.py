"""For the doors that other clients know: a request becomes a render like any other, and its pictures are waited for."""

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.api.problems import Refused
from scheduler.intake.requests import numbered
from scheduler.intake.submit import specify, submit
from storage.jobs.values import Idempotency, NewJob, Submission
from storage.renders.views import JobView, RenderView
from storage.rules.states import Priority, State
from storage.spec.picture import Request

_POLL_SECONDS = 0.1
#: A request that is made again within this time is the same one, tried again by its client.
_RETRIED_WITHIN_SECONDS = 3600.0

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a door's request comes to."""

    requests: Sequence[Request]
    #: Pictures of each.
    n: int = 1
    seed: int | None = None
    priority: Priority = Priority.INTERACTIVE
    #: The request as it came, to tell whether another one is the same.
    body: Mapping[str, Any]
    #: The caller's own name for it.
    idempotency_key: str | None = None
    #: Its client has sent it before, and got no answer.
    again: bool = False


def place(context: ApiContext, caller: Caller, order: Order) -> str:
    """The id of the order's render: a new one, or the one of the same request before.

    Raises BadSpecification, NotFound, Refused, IdempotencyConflict.
    """
    request_hash = hashlib.sha256(json.dumps(order.body, sort_keys=True).encode()).hexdigest()
    if order.again and order.idempotency_key is None:
        before = context.views.latest_of(caller.owner, request_hash, within_seconds=_RETRIED_WITHIN_SECONDS)
        if before is not None:
            return before
    context.admit(caller, order.n * len(order.requests), name=order.idempotency_key)
    name = order.idempotency_key or f"door:{request_hash[:16]}:{time.time_ns()}"
    accepted = submit(
        context.jobs,
        context.registry,
        context.tickets,
        list(_wanted(context, caller, order)),
        Submission(
            owner=caller.owner,
            priority=order.priority,
            once=Idempotency(name=name, request_hash=request_hash),
            key_id=caller.key_id,
            watched=True,
        ),
    )
    return accepted.render_id


def _wanted(context: ApiContext, caller: Caller, order: Order) -> Iterator[NewJob]:
    for one in specify(numbered(order.requests), context.registry, pictures_each=order.n, seed=order.seed):
        context.check_work(caller, one.spec)
        yield one


def finish(
    context: ApiContext, render_id: str, *, seconds: float, gone: Callable[[], bool] = lambda: False
) -> RenderView:
    """Wait for an order's end. Raises Refused (504) after so many seconds; the render goes on."""
    deadline = time.monotonic() + seconds
    while True:
        render = context.views.render(render_id)
        if render.finished:
            return render
        if time.monotonic() > deadline or gone():
            raise Refused(
                504,
                f"render {render_id} is not finished yet and goes on; GET /v1/renders/{render_id} tells",
                {"Retry-After": "10"},
            )
        time.sleep(_POLL_SECONDS)


def pictures(context: ApiContext, render: RenderView) -> list[JobView]:
    """The jobs of an order that is finished, all done. Raises Refused with the reason if one is not."""
    jobs = list(context.views.jobs(render.id))
    for job in jobs:
        if job.state is State.CANCELLED:
            raise Refused(409, f"render {render.id} was cancelled")
        if job.state is not State.DONE:
            raise Refused(422, f"picture {job.index}: {job.error}")
    return jobs


def encoded(context: ApiContext, job: JobView, *, form: Format = "png", quality: int = 95) -> bytes:
    """A picture in the format asked for; as PNG it is the stored one, its recipe within."""
    data = context.objects.get(str(job.object))
    if form == "png":
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.convert("RGB").save(buffer, form.upper(), quality=quality)
    return buffer.getvalue()


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
