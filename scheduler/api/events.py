"""Follow a render by server-sent events: each event once and in order, and the progress of its pictures."""

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
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.parameters import RenderId
from scheduler.api.problems import RESPONSES, Refused
from scheduler.results.json_forms import RenderForm
from storage.errors import NotFound, ServiceProblem
from storage.events.log import Event, event_fields
from storage.events.webhooks import Webhooks
from storage.renders.views import RenderView
from storage.rules.ids import job_id

#: How often rows are polled, and so how often progress is sent at most.
_LOOK_SECONDS = 0.5
#: Proxies close idle connections, mostly after a minute.
_KEEP_ALIVE_SECONDS = 15.0


class SecretAnswer(BaseModel):
    key: str = Field(description="whsec_ and base64, as the Standard Webhooks libraries expect it.")


router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)


@router.get(
    "/renders/{render_id}/events",
    tags=["renders"],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events until the render is finished."},
        204: {"description": "The render is finished, and every event was seen."},
    },
)
def follow_render(
    context: Context,
    render_id: RenderId,
    caller: CanRead,
    last_event_id: Annotated[int | None, Header(ge=0, description="The last event seen: continue after it.")] = None,
    after: Annotated[int, Query(ge=0, description="The same, for clients that cannot set headers.")] = 0,
) -> Response:
    """Follow a render by server-sent events: each event once and in order, across reconnects.

    `job.started`, `job.done`, `job.failed`, `job.queued`, `job.cancelled`, `render.cancelled`, `render.retried` and
    `render.finished` carry a number. `progress` tells how far pictures are, at most twice a second, and has none.
    """
    render = context.render(caller, render_id)
    if not context.views.is_watched(render_id):
        raise Refused(409, f"render {render_id} was not submitted over the API, so its events are not recorded")
    seen = after if last_event_id is None else last_event_id
    if render.finished and not context.events.after(render_id, seen, limit=1):
        # An EventSource reconnects forever; 204 tells it to stop.
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(context, render_id, seen), media_type="text/event-stream", headers=headers)


@router.get("/webhooks/secret", tags=["webhooks"])
def get_webhook_secret(context: Context, caller: CanSubmit) -> SecretAnswer:
    """Return the secret that your webhooks are signed with."""
    return SecretAnswer(key=Webhooks(context.services.database).secret(caller.owner))


async def _stream(context: ApiContext, render_id: str, seen: int) -> AsyncIterator[str]:
    progress: dict[str, Any] | None = None
    said_at = time.monotonic()
    while True:
        try:
            # Read before the events: once the render is finished, all of them are there.
            render = await run_in_threadpool(context.views.render, render_id)
            told = await run_in_threadpool(context.events.after, render_id, seen)
        except (ServiceProblem, NotFound):
            # The client reconnects and continues after the last event seen, or learns that the render was deleted.
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
                yield ": keep-alive\n\n"
            if context.ending.is_set():
                # The client reconnects, and is refused until the API runs again.
                return
            await asyncio.sleep(_LOOK_SECONDS)


def _event(render_id: str, event: Event) -> str:
    data = {"seq": event.seq, "at": event.at, **event_fields(render_id, event.index, event.data)}
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _progress(context: ApiContext, render: RenderView) -> dict[str, Any]:
    """Return a render's form, and the share of steps done of each running picture."""
    return {
        **RenderForm.of(render).model_dump(mode="json"),
        "jobs": {job_id(render.id, index): share for index, share in context.views.progress(render.id).items()},
    }
