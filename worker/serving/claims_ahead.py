"""Claims beside the device: while it makes its calls, another thread asks for the next jobs."""

import logging
import threading
import time
from collections.abc import Collection, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from storage.errors import ServiceProblem
from storage.jobs.values import Claim
from storage.rules.states import Priority
from storage.spec.models import Model
from worker.serving.services import WorkerJobs

log = logging.getLogger(__name__)

#: How often to look whether anything waits, for free slots or of higher priority than what has them: so often as looks
#: take no more than a fiftieth of the time, but for the bounds.
_LOOK_SECONDS = (0.05, 0.1)
_LOOKS_SHARE = 0.02
#: How long before the end of a call to look: what came during it is to be in the next one, and not in the one after.
_LOOK_TAKES_SECONDS = 0.02
#: How long the device waits, once, for the claim of what was found to be more urgent.
_URGENT_CLAIM_SECONDS = 0.1
#: How often to look at least, and to see how much waits.
_THOROUGH_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class QueueLook:
    """What was found in the queue."""

    claim: Claim | None = None
    #: Best priorities that wait, by model that is served; None: not looked for.
    waiting: Mapping[str, Priority] | None = None
    #: How many jobs of the best priority wait, counted as far as was asked; None: not looked for.
    backlog: int | None = None
    #: Whether jobs were asked for; without a claim, there were none.
    asked: bool = False


@dataclass(frozen=True, kw_only=True)
class SlotRoom:
    """For how many jobs there is use."""

    #: Slots that nobody has; below 0 if more wait for one.
    free: int
    #: For each priority, how many that have slots something of it would make step aside.
    less_urgent: Mapping[Priority, int]


class ClaimsAhead:
    """One question to the queue at a time, answered beside the device."""

    def __init__(self, jobs: WorkerJobs, *, worker: str, served: Collection[str]) -> None:
        self._jobs = jobs
        self._worker = worker
        self._served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claims")
        self._asked: Future[QueueLook] | None = None
        self._looked_at = 0.0
        #: Seconds from one look to the next.
        self._pause = _LOOK_SECONDS[1]
        self._thorough_at = 0.0
        #: Whoever asked wants the answer now.
        self._wanted = threading.Event()
        #: Something more urgent was found, and is being claimed.
        self._found_urgent = threading.Event()

    def is_time_to_look(self, call_seconds: float) -> bool:
        """Tell whether it is time for a look beside a call that is to take so long."""
        return time.monotonic() + _looks_in(call_seconds) - self._looked_at >= self._pause

    @property
    def is_time_for_a_thorough_look(self) -> bool:
        """Whether to look even if a claim would tell what waits for this model."""
        return time.monotonic() - self._thorough_at > _THOROUGH_SECONDS

    @property
    def is_asking(self) -> bool:
        return self._asked is not None

    def claim(self, model: Model, limit: int, *, count_to: int) -> None:
        """Ask for at most so many jobs, and how many more wait, counted up to a number."""
        self._asked = self._thread.submit(self._claim, model, limit, count_to)

    def look(self, model: Model, room: SlotRoom, *, count_to: int, call_seconds: float) -> None:
        """Ask what waits, and claim as much of it as there is use for.

        Args:
            count_to: as `claim`.
            call_seconds: how long the call is to take beside which to look: shortly before its end.
        """
        seconds, now = _looks_in(call_seconds), time.monotonic()
        self._looked_at = now + seconds
        if thorough := self.is_time_for_a_thorough_look:
            self._thorough_at = now
        self._wanted.clear()
        self._found_urgent.clear()
        self._asked = self._thread.submit(self._look, model, room, count_to, seconds, thorough=thorough)

    def answer(self, *, wait: bool = False) -> QueueLook | None:
        """Return the answer if there is one. With `wait`, wait for it; for that of something urgent, a moment."""
        if self._asked is None:
            return None
        self._wanted.set()
        if not (wait or self._asked.done() or self._urgent_is_here(self._asked)):
            return None
        asked, self._asked = self._asked, None
        try:
            return asked.result()
        except ServiceProblem as error:
            # Raised only once the process is to stop.
            log.info("claim not answered", extra={"error": error})
            return QueueLook()

    def _urgent_is_here(self, asked: "Future[QueueLook]") -> bool:
        """Wait a moment for what is urgent and being claimed: another call would take longer than that."""
        if not self._found_urgent.is_set():
            return False
        self._found_urgent.clear()
        return bool(futures.wait([asked], timeout=_URGENT_CLAIM_SECONDS).done)

    def _claim(self, model: Model, limit: int, count_to: int) -> QueueLook:
        claim = self._jobs.claim(model=model.alias, worker=self._worker, limit=limit)
        left = None if claim is None else claim.next_priority
        return QueueLook(claim=claim, asked=True, backlog=self._waiting(model, left, count_to))

    def _look(self, model: Model, room: SlotRoom, count_to: int, seconds: float, *, thorough: bool) -> QueueLook:
        self._wanted.wait(seconds)
        began = time.monotonic()
        waiting = self._jobs.best_waiting([*self._served])
        least, most = _LOOK_SECONDS
        self._pause = min(most, max(least, (time.monotonic() - began) / _LOOKS_SHARE))
        best = waiting.get(model.alias)
        if best is not None and (jobs := self._useful(model, best, room)) > 0:
            if best is Priority.INTERACTIVE:
                self._found_urgent.set()
            return replace(self._claim(model, jobs, count_to), waiting=waiting)
        return QueueLook(waiting=waiting, backlog=self._waiting(model, best, count_to) if thorough else None)

    def _useful(self, model: Model, best: Priority, room: SlotRoom) -> int:
        """Return how many jobs to claim: for free slots, and those for which others step aside."""
        if room.less_urgent[best] <= max(0, room.free):
            return room.free
        # No more than are so urgent: with each of them would come others, to be held up here.
        return max(room.free, self._waiting(model, best, room.less_urgent[best]))

    def _waiting(self, model: Model, best: Priority | None, count_to: int) -> int:
        return 0 if best is None else self._jobs.waiting(model.alias, best, at_most=count_to)


def _looks_in(call_seconds: float) -> float:
    """Return in how many seconds to look beside a call."""
    return max(0.0, call_seconds - _LOOK_TAKES_SECONDS)
