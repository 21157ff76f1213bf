"""Looks of pages that are open, shared: however many show the same, its rows are read, and its page is made, once.

A look is never older than what called for it. One that nothing but its visitor called for begins after it was asked
for; one that an event called for begins after that event was told to anybody.
"""

import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request

from scheduler.api.context import ApiContext

T = TypeVar("T")
#: What nobody has asked for so long is forgotten; times that are shown count on meanwhile.
_KEPT_SECONDS = 1.0
#: What called for a look, as `live.js` tells it: the number of an event.
CALLED_BY = "Farm-Event"


@dataclass(frozen=True)
class _LookedAt:
    #: Of `time.monotonic`.
    began: float
    value: Any
    error: Exception | None = None

    def serves(self, since: float) -> bool:
        return self.began >= since and time.monotonic() - self.began < _KEPT_SECONDS


@dataclass(eq=False)
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    found: _LookedAt | None = None


class SharedLooks:
    """What was seen a moment ago, by what was looked at and who may see it; safe for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[Hashable, _Slot] = {}
        self._tidied = time.monotonic()

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._slots)

    def get(self, key: Hashable, since: float, look: Callable[[], T]) -> T:
        """Return what a look at something found that began at this moment or later.

        Whoever comes while one goes on that began too early waits, and shares the next one with all others who wait.
        What it raises, all of them are told.
        """
        slot = self._slot(key)
        found = slot.found
        if found is None or not found.serves(since):
            with slot.lock:
                found = slot.found
                if found is None or not found.serves(since):
                    slot.found = found = _look(look)
        if found.error is not None:
            raise found.error
        value: T = found.value
        return value

    def _slot(self, key: Hashable) -> _Slot:
        with self._lock:
            if time.monotonic() - self._tidied > _KEPT_SECONDS:
                self._tidied = time.monotonic()
                self._slots = {name: slot for name, slot in self._slots.items() if _is_needed(slot)}
            return self._slots.setdefault(key, _Slot())


def _look(look: Callable[[], Any]) -> _LookedAt:
    began = time.monotonic()
    try:
        return _LookedAt(began, look())
    except Exception as error:  # noqa: BLE001 - it is raised by whoever asked
        return _LookedAt(began, None, error)


def _is_needed(slot: _Slot) -> bool:
    return slot.lock.locked() or slot.found is None or slot.found.serves(slot.found.began)


@dataclass(frozen=True, kw_only=True)
class SharedLook:
    """One look at a page: what it reads is shared with other looks, of which none is older than what called for it."""

    looks: SharedLooks
    #: Of `time.monotonic`: nothing that began to be read before then is shown.
    since: float

    def once(self, name: Hashable, read: Callable[[], T], /) -> T:
        """Read something, or take what another look has read of it. Whose it is has to be part of its name."""
        return self.looks.get(name, self.since, read)


def look_of(request: Request, context: ApiContext, *, render_id: str | None = None) -> SharedLook:
    """Return the look that a request asks for; `render_id`: at this render, whose events may have called for it."""
    now = time.monotonic()
    told = _told_at(context, request.headers.get(CALLED_BY, ""), render_id)
    return SharedLook(looks=request.app.state.looks, since=now if told is None else min(now, told))


def _told_at(context: ApiContext, event: str, render_id: str | None) -> float | None:
    """Return when an event was told here; None if it was not, or nobody knows any more."""
    if "." in event:
        return context.farm_followers.told_at(event)
    if render_id is not None and event.isdecimal():
        with suppress(ValueError):  # thousands of digits
            return context.followers.told_at(render_id, int(event))
    return None
