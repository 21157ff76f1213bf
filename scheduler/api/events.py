"""Follow a render by server-sent events: each event once and in order, and the progress of its pictures."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from scheduler.api.access import Caller, CanRead
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.parameters import RenderId
from scheduler.api.problems import RESPONSES, Refused

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
    previews: Annotated[bool, Query(description="Send events `preview`, too.")] = False,
) -> Response:
    """Follow a render by server-sent events: each event once and in order, across reconnects.

    `job.started`, `job.done`, `job.failed`, `job.queued`, `job.cancelled`, `render.cancelled`, `render.retried` and
    `render.finished` carry a number. `progress` tells how far pictures are, at most twice a second, and has none, nor
    has `preview`, which comes only if asked for: how a picture looks after so many of its `steps`, as a small file of
    the type `media_type` in base64 (`b64_json`), or in `why_none` that there is none of it.
    """
    render = context.render(caller, render_id)
    if not context.views.is_watched(render_id):
        raise Refused(409, f"render {render_id} was not submitted over the API, so its events are not recorded")
    seen = after if last_event_id is None else last_event_id
    if render.finished and not context.events.after(render_id, seen, limit=1):
        # An EventSource reconnects forever; 204 tells it to stop.
        return Response(status_code=204)
    if previews and context.previews is None:
        raise Refused(409, "previews: there are none: this API was started without a broker, through which they come")
    return _EventStream(context, caller, render_id, seen, previews=previews)


class _EventStream(StreamingResponse):
    """The answer to a follower, who takes a place as long as it is being sent."""

    def __init__(self, context: ApiContext, caller: Caller, render_id: str, seen: int, *, previews: bool) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__((), headers=headers, media_type="text/event-stream")
        self._context = context
        self._caller = caller
        self._render_id = render_id
        self._seen = seen
        self._previews = previews

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        followers = self._context.followers
        with followers.follow(self._render_id, self._caller, self._seen, previews=self._previews) as texts:
            self.body_iterator = texts
            await super().__call__(scope, receive, send)
