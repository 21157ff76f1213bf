"""Tell what happens on the farm to all who follow it: one reader of rows for every stream, and every open page."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag

from scheduler.api.access import Caller
from scheduler.api.waiting.farm_changes import FarmChange, FarmChanges, FarmSeen
from scheduler.api.waiting.farm_log import FarmLog, Topic
from scheduler.api.waiting.places import Places
from scheduler.api.waiting.shared_reader import SharedReader
from storage.access.keys import Credential, Keys
from storage.database.connection import Database

#: Proxies close idle connections, mostly after a minute.
_KEEP_ALIVE_SECONDS = 15.0
#: A browser comes again at once, and shows then whether it is still logged in.
_LONGEST_SECONDS = 600.0
_COME_AGAIN_MILLISECONDS = 1000
#: A look that took long, since very much is unfinished, is not taken so often that it takes a core.
_LOOKS_SHARE = 0.1


@dataclass(eq=False)
class _FarmStream:
    """Somebody who follows the farm."""

    credential: Credential
    #: None: every owner's.
    sees: str | None
    topics: Collection[Topic]
    #: The last number that they know; None: they know nothing yet.
    seen: int | None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def end(self) -> None:
        self.over = True
        self.news.set()


@dataclass(frozen=True, kw_only=True)
class _Followed:
    credentials: Collection[Credential]
    before: FarmSeen | None
    with_jobs: bool


@dataclass(frozen=True, kw_only=True)
class _Changes:
    change: FarmChange
    #: What lets nobody in any more.
    ended: Collection[Credential]


class FarmFollowers(SharedReader[_Followed, _Changes]):
    """Streams of server-sent events of the farm."""

    def __init__(self, database: Database, ending: Flag, *, every_seconds: float, places: Places) -> None:
        """Prepare the streams; `places`: those of all streams of events."""
        super().__init__(every_seconds=every_seconds, ending=ending)
        self.places = places
        self._changes = FarmChanges(database)
        self._keys = Keys(database)
        self._log = FarmLog()
        self._streams: set[_FarmStream] = set()
        #: None: whoever comes first learns that anything may have changed.
        self._before: FarmSeen | None = None
        self._look_seconds = 0.0

    @property
    def place(self) -> str:
        """From where to follow whoever reads rows after this."""
        return self._log.place()

    def told_at(self, place: str) -> float | None:
        """Return since when rows that are read tell of all that was told up to a place, by `time.monotonic`."""
        return self._log.told_at(place)

    @contextmanager
    def follow(self, caller: Caller, topics: Collection[Topic], place: str | None) -> Iterator[AsyncIterator[str]]:
        """Follow the farm from a place on; what is yielded is what to send.

        It ends with the caller's key or login, when the API stops, and after some minutes.

        Raises Refused if too many follow.
        """
        with self.places.taken(caller):
            stream = _FarmStream(caller.credential, caller.sees, topics, self._log.number(place))
            self._streams.add(stream)
            if self._before is not None:
                stream.news.set()
            self._awake()
            try:
                yield self._texts(stream)
            finally:
                self._streams.discard(stream)

    async def _texts(self, stream: _FarmStream) -> AsyncIterator[str]:
        until = time.monotonic() + _LONGEST_SECONDS
        yield f"retry: {_COME_AGAIN_MILLISECONDS}\n\n"
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, _KEEP_ALIVE_SECONDS)):
                    await stream.news.wait()
            except TimeoutError:
                yield ": keep-alive\n\n"
                continue
            stream.news.clear()
            if stream.over:
                # The client comes again, and learns why it may not.
                return
            if text := self._next(stream):
                yield text

    def _next(self, stream: _FarmStream) -> str:
        """Return what is new to somebody, all at once; they know it then."""
        news = None if stream.seen is None else self._log.after(stream.seen)
        stream.seen = self._log.last
        if news is None:
            return f"id: {self._log.place()}\nevent: reset\ndata: {{}}\n\n"
        return "".join(
            f"id: {self._log.place(number)}\nevent: {one.kind}\ndata: {one.data}\n\n"
            for number, one in news
            if one.concerns(stream.sees, stream.topics)
        )

    def _asked(self) -> _Followed | None:
        if not self._streams:
            self._before = None
            return None
        credentials = {stream.credential for stream in self._streams}
        with_jobs = any("jobs" in stream.topics for stream in self._streams)
        return _Followed(credentials=credentials, before=self._before, with_jobs=with_jobs)

    def _look(self, asked: _Followed) -> _Changes:
        began = time.monotonic()
        ended = self._keys.ended(asked.credentials)
        change = self._changes.since(asked.before, with_jobs=asked.with_jobs)
        self._look_seconds = time.monotonic() - began
        return _Changes(change=change, ended=ended)

    def _tell(self, found: _Changes) -> None:
        self._before, news = found.change.seen, found.change.news
        self._log.lose() if news is None else self._log.tell(news)
        for stream in self._streams:
            if stream.credential in found.ended:
                stream.end()
            elif news is None or news:
                stream.news.set()

    def _end(self, error: Exception | None) -> None:
        del error  # the client comes again, and is told of it then
        self._before = None
        for stream in self._streams:
            stream.end()

    def _pause_seconds(self) -> float:
        return max(self._every_seconds, self._look_seconds / _LOOKS_SHARE)
