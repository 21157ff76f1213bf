"""A render's pictures as one archive over HTTP: as fast as the caller reads, and no longer than the caller stays."""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from scheduler.api.access import Caller, CanRead
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.list_queries import LabelQuery, read_label
from scheduler.api.parameters import RenderId
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.waiting.gone import gone
from scheduler.results.archive import Archive
from storage.access.keys import Credential, Keys
from storage.errors import ServiceProblem

log = logging.getLogger(__name__)

#: A caller who has read nothing for so long holds a place for nothing.
_STALLED_SECONDS = 120.0

router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)


@router.get(
    "/renders/{render_id}/pictures.zip",
    tags=["renders"],
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}, "description": "The archive."}},
)
def get_pictures(context: Context, render_id: RenderId, caller: CanRead, label: LabelQuery = None) -> Response:
    """Return the finished pictures of a render as one ZIP archive, made while it is sent.

    Its files are named `INDEX-SEED.png`; `pictures.jsonl` has a line for each. A picture that is no longer in the
    object store is told in `MISSING.txt`. An answer that is cut off has no end, and is no archive: ask again.
    """
    context.render(caller, render_id)
    archive = Archive(views=context.views, objects=context.objects, render_id=render_id, labels=read_label(label))
    if archive.is_empty():
        of_those = "" if label is None else f" with the label {label[:60]}"
        raise Refused(404, f"render {render_id} has no finished pictures{of_those}", code=ProblemCode.NO_PICTURE)
    return _ArchiveAnswer(context, caller, archive)


@dataclass
class _Caller:
    """Whether there is still somebody to send to."""

    context: ApiContext
    credential: Credential
    gone: asyncio.Future[None]
    looked_at: float

    async def stays(self) -> bool:
        if self.gone.done() or self.context.ending.is_set():
            return False
        if time.monotonic() - self.looked_at > self.context.events_read_seconds:
            self.looked_at = time.monotonic()
            ended = await run_in_threadpool(Keys(self.context.services.database).ended, {self.credential})
            return self.credential not in ended
        return True


class _ArchiveAnswer(Response):
    """The answer, which takes a place as long as it is being sent. One that is cut off has no end in HTTP either."""

    media_type = "application/zip"

    def __init__(self, context: ApiContext, caller: Caller, archive: Archive) -> None:
        said = {
            "Content-Disposition": f'attachment; filename="{archive.render_id}.zip"',
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        super().__init__(headers=said)
        # Nobody knows how long it is.
        del self.headers["content-length"]
        self._context = context
        self._caller = caller
        self._archive = archive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        with self._context.archives.taken(self._caller):
            parts = self._archive.parts()
            left = asyncio.ensure_future(gone(receive))
            try:
                first = await run_in_threadpool(next, parts, None)
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                there = _Caller(self._context, self._caller.credential, left, time.monotonic())
                await self._send(first, parts, there, send)
            finally:
                left.cancel()
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(parts.close)

    async def _send(self, first: bytes | None, parts: Iterator[bytes], there: _Caller, send: Send) -> None:
        part = first
        try:
            while part is not None and await there.stays():
                async with asyncio.timeout(_STALLED_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                part = await run_in_threadpool(next, parts, None)
        except TimeoutError:
            return
        except ServiceProblem as error:
            log.warning("an archive was cut off", extra={"render": self._archive.render_id, "error": error})
            return
        if part is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
