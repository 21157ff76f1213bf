"""Tell what happens to renders to all who follow them: one reader of rows for every stream of this process."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag

from starlette.concurrency import run_in_threadpool

from scheduler.api.access import Caller
from scheduler.api.waiting.followed_previews import FollowedPreviews, LastPreviews
from scheduler.api.waiting.places import Places
from scheduler.api.waiting.shared_reader import SharedReader
from scheduler.results.json_forms import RenderForm
from storage.access.keys import Credential, Keys
from storage.broker.previews import Previews
from storage.database.connection import Database
from storage.errors import ServiceProblem
from storage.events.log import Event, EventLog, event_fields
from storage.renders.followed import Followed, FollowedRender
from storage.renders.views import RenderView
from storage.rules.ids import job_id
from storage.rules.times import rfc3339

#: Proxies close idle connections, mostly after a minute.
_KEEP_ALIVE_SECONDS = 15.0
#: Events of a render that are kept for its streams; one that is further behind reads them by itself.
_KEPT = 200
#: How long it is remembered what hinders a model.
_HINDRANCES_SECONDS = 5.0

#: The number of an event, and what is sent of it.
_Told = tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A render as it was read last."""

    row: FollowedRender
    #: What it tells of the render: whoever follows is sent it when that changes.
    told: tuple[object, ...]
    #: What is sent of it.
    progress: str


@dataclass(eq=False)
class _Render:
    """A render that is followed."""

    seen: _Seen | None = None
    #: The last events, without a gap.
    recent: deque[_Told] = field(default_factory=lambda: deque(maxlen=_KEPT))
    #: The number of the last event that was told, and when (`time.monotonic`).
    told: tuple[int, float] = (0, 0.0)
    #: The last previews of its pictures that are on a device, if anybody wants them.
    previews: LastPreviews = field(default_factory=dict)
    streams: "set[_Follower]" = field(default_factory=set)

    def after(self, seq: int) -> list[_Told] | None:
        """Return the events after number `seq`; None if they are no longer, or not yet, all here."""
        if not self.recent or self.recent[0][0] > seq + 1:
            return None
        return [one for one in self.recent if one[0] > seq]


@dataclass(eq=False)
class _Follower:
    """Somebody who follows a render."""

    credential: Credential
    wants_previews: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def end(self) -> None:
        self.over = True
        self.news.set()


@dataclass(frozen=True, kw_only=True)
class _FollowedRenders:
    renders: Mapping[str, _Render]
    credentials: Collection[Credential]
    with_previews: Collection[str]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is new of what was asked for; a render that is not in `seen` is gone."""

    renders: Mapping[str, _Render]
    seen: Mapping[str, _Seen]
    told: Mapping[str, list[_Told]]
    previews: Mapping[str, LastPreviews]
    #: What lets nobody in any more.
    ended: Collection[Credential]


class Followers(SharedReader[_FollowedRenders, _Found]):
    """Streams of server-sent events."""

    def __init__(
        self,
        database: Database,
        ending: Flag,
        *,
        every_seconds: float,
        hindrance: Callable[[str], str | None],
        previews: Previews | None = None,
    ) -> None:
        """Prepare the streams; `hindrance` says what keeps every job of a model in the queue, if anything does."""
        super().__init__(every_seconds=every_seconds, ending=ending)
        self._hindrance = hindrance
        #: Model → that sentence, for some seconds: it is the same for all renders.
        self._hindrances: dict[str, str | None] = {}
        self._hindrances_at = 0.0
        self.places = Places("streams of events")
        self._rows = Followed(database)
        self._events = EventLog(database)
        self._keys = Keys(database)
        self._previews = FollowedPreviews(previews)
        self._renders: dict[str, _Render] = {}

    def told_at(self, render_id: str, seq: int) -> float | None:
        """Return since when rows that are read tell of a render's event, by `time.monotonic`; None if nobody knows."""
        render = self._renders.get(render_id)
        last, at = (0, 0.0) if render is None else render.told
        return at if 0 < seq <= last else None

    @contextmanager
    def follow(
        self, render_id: str, caller: Caller, seen: int, *, previews: bool = False
    ) -> Iterator[AsyncIterator[str]]:
        """Follow a render from event number `seen` on; what is yielded is what to send.

        It ends with the render, with the caller's key or login, and when the API stops.

        Raises Refused if too many follow.
        """
        stream = _Follower(caller.credential, previews)
        with self.places.taken(caller), self._joined(render_id, stream) as render:
            yield self._texts(render_id, render, stream, seen)

    @contextmanager
    def watched(self, render_id: str, caller: Caller) -> Iterator[Callable[[], LastPreviews]]:
        """Have the previews of a render read for a caller who waits for it, and has a place for that already.

        What is yielded returns the last ones, without asking anybody.
        """
        with self._joined(render_id, _Follower(caller.credential, wants_previews=True)) as render:
            yield lambda: render.previews

    @contextmanager
    def _joined(self, render_id: str, stream: _Follower) -> Iterator[_Render]:
        render = self._renders.setdefault(render_id, _Render())
        render.streams.add(stream)
        if render.seen is not None:
            stream.news.set()
        self._awake()
        try:
            yield render
        finally:
            render.streams.discard(stream)
            if not render.streams:
                self._renders.pop(render_id, None)

    async def _texts(self, render_id: str, render: _Render, stream: _Follower, seen: int) -> AsyncIterator[str]:
        said = ""
        shown: dict[str, tuple[int, int]] = {}
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    await stream.news.wait()
            except TimeoutError:
                yield ": keep-alive\n\n"
                continue
            stream.news.clear()
            now = render.seen
            if stream.over or now is None:
                # The client reconnects and continues after the last event seen, or learns why it cannot.
                return
            while seen < now.row.events:
                told = render.after(seen)
                if told is None:
                    try:
                        told = await run_in_threadpool(self._read_after, render_id, seen)
                    except ServiceProblem:
                        return
                if not told:
                    break
                seen = told[-1][0]
                # All at once: each piece that is sent by itself costs as much as all of them.
                yield "".join(text for _, text in told)
            if now.row.view.finished:
                return
            previews = render.previews if stream.wants_previews else {}
            news = [] if now.progress == said else [now.progress]
            news += [one.text for job, one in previews.items() if shown.get(job) != one.step]
            said, shown = now.progress, {job: one.step for job, one in previews.items()}
            if news:
                yield "".join(news)

    def _read_after(self, render_id: str, seen: int) -> list[_Told]:
        return [(event.seq, _text(render_id, event)) for event in self._events.after(render_id, seen)]

    def _asked(self) -> _FollowedRenders | None:
        if not self._renders:
            return None
        credentials = {stream.credential for render in self._renders.values() for stream in render.streams}
        wanted = [
            name for name, render in self._renders.items() if any(stream.wants_previews for stream in render.streams)
        ]
        return _FollowedRenders(renders=dict(self._renders), credentials=credentials, with_previews=wanted)

    def _look(self, asked: _FollowedRenders) -> _Found:
        ended = self._keys.ended(asked.credentials)
        rows = self._rows.renders(asked.renders)
        shares = self._rows.shares(rows.keys())
        seen: dict[str, _Seen] = {}
        numbers: list[tuple[str, int]] = []
        for render_id, row in rows.items():
            before = asked.renders[render_id].seen
            seen[render_id] = _seen(row, shares.get(render_id, {}), self._why(row.view), before)
            # Of a render that nobody followed before, each stream reads by itself what it has missed.
            last = row.events if before is None else before.row.events
            numbers += ((render_id, seq) for seq in range(max(last + 1, row.events - _KEPT + 1), row.events + 1))
        events = self._events.these(numbers) if numbers else {}
        told = {name: [(event.seq, _text(name, event)) for event in some] for name, some in events.items()}
        previews = self._previews.look([name for name in asked.with_previews if name in rows], shares)
        return _Found(renders=asked.renders, seen=seen, told=told, previews=previews, ended=ended)

    def _why(self, render: RenderView) -> str | None:
        """Say what hinders a waiting render: the same as the sentence of its status, but for its place in the queue."""
        if render.state != "waiting":
            return None
        if time.monotonic() - self._hindrances_at > _HINDRANCES_SECONDS:
            self._hindrances, self._hindrances_at = {}, time.monotonic()
        for model in render.models:
            if model not in self._hindrances:
                self._hindrances[model] = self._hindrance(model)
            if (sentence := self._hindrances[model]) is not None:
                return sentence
        return None

    def _tell(self, found: _Found) -> None:
        for render_id, render in found.renders.items():
            now = found.seen.get(render_id)
            told = found.told.get(render_id, ())
            if told and render.recent and render.recent[-1][0] + 1 != told[0][0]:
                render.recent.clear()
            render.recent.extend(told)
            if now is not None and (told or render.seen is None):
                # What came before it was followed, its streams read by themselves: it had happened by now, too.
                render.told = (now.row.events, time.monotonic())
            before, previews = render.previews, found.previews.get(render_id, {})
            changed = now != render.seen or before.keys() != previews.keys()
            changed = changed or any(before[job].step != one.step for job, one in previews.items())
            render.seen, render.previews = now, previews
            for stream in render.streams:
                if now is None or stream.credential in found.ended:
                    stream.end()
                elif changed:
                    stream.news.set()

    def _end(self, error: Exception | None) -> None:
        del error  # the client reconnects, and is told of it then
        for render in self._renders.values():
            for stream in render.streams:
                stream.end()


def _seen(row: FollowedRender, shares: Mapping[int, float], why: str | None, before: _Seen | None) -> _Seen:
    jobs = {job_id(row.view.id, index): share for index, share in shares.items()}
    told = (row.view, row.view.state, shares, why)
    if before is not None and before.told == told:
        return _Seen(row=row, told=told, progress=before.progress)
    data = json.dumps({**RenderForm.of(row.view, why=why).model_dump(mode="json"), "jobs": jobs})
    return _Seen(row=row, told=told, progress=f"event: progress\ndata: {data}\n\n")


def _text(render_id: str, event: Event) -> str:
    data = {
        "seq": event.seq,
        "at": event.at,
        "time": rfc3339(event.at),
        **event_fields(render_id, event.index, event.data),
    }
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
