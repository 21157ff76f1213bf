"""OpenAI's images as server-sent events: previews while they are made, and then the pictures."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from scheduler.api.compat.pictures import Call, as_base64, encoded, finished_jobs
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from scheduler.api.waiting.followed_previews import FollowedPreview, LastPreviews
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Accepted, submit_order
from scheduler.results.signed_urls import Format
from storage.broker.previews import Preview
from storage.errors import FarmError, NotFound, ServiceProblem
from storage.renders.views import JobView

#: As OpenAI's own API.
MOST_PARTIAL = 3
_LOOK_SECONDS = 0.25
#: Proxies close idle connections, mostly after a minute.
_KEEP_ALIVE_SECONDS = 15.0
#: The farm counts none.
_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
#: Makes OpenAI's form of an error.
ErrorForm = Callable[[int, ProblemCode, str, Sequence[str]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PictureForm:
    """What pictures are sent as."""

    form: Format
    quality: int


@dataclass
class Partial:
    """Which previews were sent."""

    #: Of each picture.
    wanted: int
    pictures: int
    #: By index of the picture, how many.
    sent: dict[int, int] = field(default_factory=dict)

    @property
    def all_sent(self) -> bool:
        return sum(self.sent.values()) >= self.wanted * self.pictures

    def is_due(self, index: int, preview: Preview) -> bool:
        """Return whether a preview comes at its time: they are spread over a picture's steps."""
        before = self.sent.get(index, 0)
        share = (before + 1) / (self.wanted + 1)
        return before < self.wanted and bool(preview.image) and preview.step >= share * preview.steps


async def streamed(
    call: Call, asked: Callable[[], tuple[Order, Terms]], *, partial: Partial, form: PictureForm, error: ErrorForm
) -> Response:
    """Submit an order and return events about its pictures.

    Args:
        asked: what to submit; called in a thread.
        partial: which previews to send.
        error: makes OpenAI's form of an error.

    Raises what submitting raises, and Refused if too many wait; what happens later is an event `error`.
    """
    with call.context.waiters.places.taken(call.caller):
        accepted = await run_in_threadpool(
            lambda: submit_order(call.context.intake, call.caller.submitter, *asked()),
        )
    return _Stream(call, accepted, partial, form, error)


class _Stream(StreamingResponse):
    """The answer to a caller, who takes a place among those that wait as long as it is being sent."""

    def __init__(self, call: Call, accepted: Accepted, partial: Partial, form: PictureForm, error: ErrorForm) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), headers=headers, media_type="text/event-stream")
        self._call = call
        self._accepted = accepted
        self._partial = partial
        self._form = form
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._call.context.waiters.places.taken(self._call.caller):
            await super().__call__(scope, receive, send)

    async def _events(self) -> AsyncIterator[str]:
        call, render_id = self._call, self._accepted.render_id
        waiting = call.context.waiters.wait(call.request, render_id, call.caller, seconds=call.seconds)
        over: asyncio.Future[None] = asyncio.ensure_future(waiting)
        try:
            async for text in self._until(over):
                yield text
            over.result()
            jobs = await run_in_threadpool(finished_jobs, call, render_id)
            for job in jobs:
                yield await run_in_threadpool(self._completed, job)
        except FarmError as error:
            yield self._refusal(error)
        finally:
            over.cancel()

    async def _until(self, over: asyncio.Future[None]) -> AsyncIterator[str]:
        """Yield previews whose time has come, and signs of life, until the render is over."""
        wanted, spoken_at = self._partial, time.monotonic()
        last: Callable[[], LastPreviews] = dict
        with ExitStack() as held:
            if not wanted.all_sent:
                watched = self._call.context.followers.watched(self._accepted.render_id, self._call.caller)
                last = held.enter_context(watched)
            while not over.done():
                await asyncio.wait({over}, timeout=_LOOK_SECONDS)
                due = [one for one in last().values() if wanted.is_due(one.index, one.preview)]
                for one in [] if over.done() else due:
                    if (text := await run_in_threadpool(self._previewed, one)) is not None:
                        spoken_at = time.monotonic()
                        yield text
                if wanted.all_sent:
                    # Nobody watches any more.
                    held.close()
                if time.monotonic() - spoken_at > _KEEP_ALIVE_SECONDS:
                    spoken_at = time.monotonic()
                    yield ": keep-alive\n\n"

    def _previewed(self, one: FollowedPreview) -> str | None:
        """Return the event of a preview; None if it is of an earlier attempt, or its job cannot be read now."""
        try:
            job = self._call.context.views.job(one.preview.job)
        except (NotFound, ServiceProblem):
            return None
        if job.attempt != one.preview.attempt:
            return None
        number = self._partial.sent.get(one.index, 0)
        self._partial.sent[one.index] = number + 1
        picture = self._enlarged(one.preview, job)
        return self._event("image_generation.partial_image", job, picture, partial_image_index=number)

    def _enlarged(self, preview: Preview, job: JobView) -> bytes:
        """Return a preview in the size and the format of the picture, as clients expect it."""
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(preview.image)) as small:
            large = small.convert("RGB").resize((job.spec.width, job.spec.height), Image.Resampling.BICUBIC)
        large.save(buffer, self._form.form.upper(), quality=self._form.quality)
        return buffer.getvalue()

    def _completed(self, job: JobView) -> str:
        data = encoded(self._call.context, job, form=self._form.form, quality=self._form.quality)
        remarks = sorted(self._accepted.remarks)
        said = {"usage": _USAGE, "seed": job.spec.seed, "id": job.render_id, "remarks": remarks}
        return self._event("image_generation.completed", job, data, **said)

    def _event(self, kind: str, job: JobView, picture: bytes, **beside: Any) -> str:
        data = {
            "type": kind,
            "b64_json": as_base64(picture),
            "created_at": int(time.time()),
            "size": f"{job.spec.width}x{job.spec.height}",
            "quality": "auto",
            "background": "opaque",
            "output_format": self._form.form,
            "index": job.index,
            **beside,
        }
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n"

    def _refusal(self, error: FarmError) -> str:
        status, code = 503, ProblemCode.SERVICE_UNAVAILABLE
        if isinstance(error, Refused):
            status, code = error.status, error.code
        return f"event: error\ndata: {json.dumps(self._error(status, code, str(error), ()))}\n\n"
