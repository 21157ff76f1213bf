"""Following a render as server-sent events: what happened, once and in order, and how far its pictures are."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.context import ApiContext, Context
from scheduler.api.parameters import RenderId
from scheduler.api.problems import RESPONSES, Refused
from scheduler.results.json_forms import RenderForm
from storage.errors import NotFound, ServiceProblem
from storage.events.log import Event, event_fields
from storage.events.webhooks import Webhooks
from storage.renders.views import RenderView
from storage.rules.ids import job_id

#: Steps are told at most this often, and the rows asked for news.
_LOOK_SECONDS = 0.5
#: A proxy closes what is silent for longer, mostly after a minute.
_KEEP_ALIVE_SECONDS = 15.0


class SecretAnswer(BaseModel):
    key: str = Field(description="whsec_ and base64, as Standard Webhooks' libraries take it.")


router = APIRouter(prefix="/v1", responses=RESPONSES)


@router.get(
    "/renders/{render_id}/events",
    tags=["renders"],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events until the render is finished."},
        204: {"description": "It is finished, and every event was seen."},
    },
)
def follow_render(
    context: Context,
    render_id: RenderId,
    caller: CanRead,
    last_event_id: Annotated[int | None, Header(ge=0, description="The last one seen: go on after it.")] = None,
    after: Annotated[int, Query(ge=0, description="The same, for those who cannot set headers.")] = 0,
) -> Response:
    """What happens to a render (server-sent events): each event once and in order, whenever it was cut off.

    `job.started`, `job.done`, `job.failed`, `job.queued`, `job.cancelled`, `render.cancelled`, `render.retried` and
    `render.finished` carry a number. `progress` tells how far pictures are, at most twice a second, and has none.
    """
    render = context.render(caller, render_id)
    if not context.views.is_watched(render_id):
        raise Refused(409, f"render {render_id} was not submitted over the API: its events are not written down")
    seen = after if last_event_id is None else last_event_id
    if render.finished and not context.events.after(render_id, seen, limit=1):
        # An EventSource would connect again and again; this is how it is told to stop.
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(context, render_id, seen), media_type="text/event-stream", headers=headers)


@router.get("/webhooks/secret", tags=["webhooks"])
def get_webhook_secret(context: Context, caller: CanSubmit) -> SecretAnswer:
    """What your webhooks are signed with."""
    return SecretAnswer(key=Webhooks(context.services.database).secret(caller.owner))


async def _stream(context: ApiContext, render_id: str, seen: int) -> AsyncIterator[str]:
    progress: dict[str, Any] | None = None
    said_at = time.monotonic()
    while True:
        try:
            # Before the events: once it is finished, all of them are there.
            render = await run_in_threadpool(context.views.render, render_id)
            told = await run_in_threadpool(context.events.after, render_id, seen)
        except (ServiceProblem, NotFound):
            # Whoever follows connects again, and goes on after the last event seen, or hears that it is deleted.
            return
        for event in told:
            seen = event.seq
            yield _event(render_id, event)
        if not told:
            if render.finished:
                return
            now = await run_in_threadpool(_progress, context, render)
            if now != progress:
                progress = now
                said_at = time.monotonic()
                yield f"event: progress\ndata: {json.dumps(now)}\n\n"
            elif time.monotonic() - said_at > _KEEP_ALIVE_SECONDS:
                said_at = time.monotonic()
                yield ": still there\n\n"
            await asyncio.sleep(_LOOK_SECONDS)


def _event(render_id: str, event: Event) -> str:
    data = {"seq": event.seq, "at": event.at, **event_fields(render_id, event.index, event.data)}
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _progress(context: ApiContext, render: RenderView) -> dict[str, Any]:
    """Return a render's form, and the pictures at a device with the share of their steps that is done."""
    return {
        **RenderForm.of(render).model_dump(mode="json"),
        "jobs": {job_id(render.id, index): share for index, share in context.views.progress(render.id).items()},
    }
