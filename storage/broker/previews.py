"""Previews: small pictures of what is being denoised, from the worker that has them to whoever watches.

Whoever watches says so for some seconds, and renews it; workers ask whether anybody watches what they have in hand, and
leave a preview of it, which is gone some seconds later. All of it is in Redis alone: losing it loses nothing.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.broker.problems import translated
from storage.broker.queues import KEY_PREFIX
from storage.broker.tickets import Tickets
from storage.settings import Settings, broker_address, without_secrets

#: How long somebody counts as watching, since they last looked.
WATCHED_SECONDS = 10
#: How long a preview is there, unless a later one takes its place: longer than a step of most models.
KEPT_SECONDS = 60
#: A small picture has a tenth of it.
MOST_BYTES = 2**17
_WATCHED, _PREVIEW = f"{KEY_PREFIX}preview.watched.", f"{KEY_PREFIX}preview.of."


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How a picture looked after so many of its steps; or why it is not to be seen before it is done."""

    #: The job's name, such as `k7m2p9x4tq8z-000012`.
    job: str
    #: Of the job: an earlier attempt's preview tells nothing of a later one.
    attempt: int
    step: int
    steps: int
    #: A WebP file; empty: there is none.
    image: bytes = b""
    why_none: str | None = None

    def written(self) -> bytes:
        said = {"attempt": self.attempt, "step": self.step, "steps": self.steps, "why_none": self.why_none}
        return json.dumps(said).encode() + b"\n" + self.image

    @classmethod
    def read(cls, job: str, data: bytes) -> "Preview":
        said, _, image = data.partition(b"\n")
        return cls(job=job, image=image, **json.loads(said))


class Previews:
    """Connects on first use; safe to share between threads. Every call raises BrokerProblem."""

    def __init__(self, url: str, *, shown: str) -> None:
        """Raise BadSettings if the URL cannot be understood; messages name the broker as it is `shown`."""
        # Loaded here: commands that never ask Redis import this, too, and its library takes a fifth of a second.
        from storage.broker.redis_counts import connection

        self._shown = shown
        self._redis: Any = connection(url, shown=shown)

    def watch(self, names: Iterable[str]) -> None:
        """Say that somebody watches these jobs, or all jobs of these renders, for the next seconds."""
        with translated(self._shown), self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.set(f"{_WATCHED}{name}", 1, ex=WATCHED_SECONDS)
            pipeline.execute()

    def watched(self, names: Collection[str]) -> set[str]:
        """Return those of these jobs and renders that somebody watches."""
        ordered = list(names)
        if not ordered:
            return set()
        with translated(self._shown):
            found = self._redis.mget([f"{_WATCHED}{name}" for name in ordered])
        return {name for name, value in zip(ordered, found, strict=True) if value is not None}

    def put(self, previews: Iterable[Preview]) -> None:
        """Leave previews for those who watch, in place of earlier ones; one that is too large is left out."""
        with translated(self._shown), self._redis.pipeline(transaction=False) as pipeline:
            for preview in previews:
                if len(data := preview.written()) <= MOST_BYTES:
                    pipeline.set(f"{_PREVIEW}{preview.job}", data, ex=KEPT_SECONDS)
            pipeline.execute()

    def get(self, jobs: Collection[str]) -> Mapping[str, Preview]:
        """Return the last previews of these jobs, by their names; of those that have one."""
        ordered = list(jobs)
        if not ordered:
            return {}
        with translated(self._shown):
            found = self._redis.mget([f"{_PREVIEW}{job}" for job in ordered])
        return {job: Preview.read(job, data) for job, data in zip(ordered, found, strict=True) if data is not None}


def open_previews(settings: Settings) -> Previews:
    """Return the previews of a farm. Raises BadSettings without a broker address. Nothing is contacted yet."""
    url = broker_address(settings)
    return Previews(url, shown=without_secrets(url))


def previews_beside(tickets: Tickets | None) -> Previews | None:
    """Return the previews that go through the broker of these tickets; None: there is no broker."""
    return None if tickets is None else open_previews(tickets.settings)
