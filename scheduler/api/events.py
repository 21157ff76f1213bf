"""Follow a render by server-sent events, each event once and in order; and the farm, as far as a caller may see it."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractContextManager
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from scheduler.api.access import CanRead
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.parameters import RenderId
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.waiting.farm_log import TOPICS, Topic
from storage.errors import BadSpecification

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
    return _EventStream(lambda: context.followers.follow(render_id, caller, seen, previews=previews))


@router.get(
    "/events",
    tags=["farm"],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events, until the caller's key ends."}},
)
def follow_farm(
    context: Context,
    caller: CanRead,
    topics: Annotated[
        str | None, Query(max_length=60, description="Only these of renders, jobs, workers and backlog, by commas.")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=60, description="The last event seen: continue after it.")
    ] = None,
    after: Annotated[
        str | None, Query(max_length=60, description="The same, for clients that cannot set headers.")
    ] = None,
) -> Response:
    """Follow the farm by server-sent events: your renders, what is left of them, and the workers.

    With an admin key, every owner's. `render` (as in the list of renders, and in `events` the number of its last event)
    and `render.deleted` tell of a render that is unfinished or new, `worker` and `worker.gone` of a worker, `backlog`
    of what is left. The topic `jobs` brings events of single pictures, as `/v1/renders/ID/events` does: of a render the
    last hundred at a time. Twice a second at most, what changed meanwhile is told once.

    `reset` says that anything may have changed: a stream begins with it, unless it goes on where another one broke off.
    A stream ends with its key, and otherwise after ten minutes: connect again.
    """
    wanted, place = _topics(topics), after if last_event_id is None else last_event_id
    return _EventStream(lambda: context.farm_followers.follow(caller, wanted, place))


def _topics(said: str | None) -> Collection[Topic]:
    """Return what to tell of; everything by default. Raises BadSpecification for what there is no news of."""
    names = TOPICS if said is None else said.replace(" ", "").split(",")
    if unknown := [name for name in names if name not in TOPICS]:
        raise BadSpecification(f"topics: {unknown[0][:20]!r}: no topic; there are {', '.join(TOPICS)}")
    return [topic for topic in TOPICS if topic in names]


class _EventStream(StreamingResponse):
    """The answer to a follower, who takes a place as long as it is being sent."""

    def __init__(self, follow: Callable[[], AbstractContextManager[AsyncIterator[str]]]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__((), headers=headers, media_type="text/event-stream")
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._follow() as texts:
            self.body_iterator = texts
            await super().__call__(scope, receive, send)
