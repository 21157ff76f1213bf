"""Claims beside the device: while it makes its calls, another thread asks for the next jobs."""

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from storage.errors import ServiceProblem
from storage.jobs.values import Claim
from storage.rules.states import Priority
from storage.spec.models import Model
from worker.serving.services import WorkerJobs

log = logging.getLogger(__name__)

#: How often to look whether anything waits: for free slots, or of higher priority than what has them.
LOOK_SECONDS = 0.1
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


class ClaimsAhead:
    """One question to the queue at a time, answered beside the device."""

    def __init__(self, jobs: WorkerJobs, *, worker: str, served: Collection[str]) -> None:
        self._jobs = jobs
        self._worker = worker
        self._served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claims")
        self._asked: Future[QueueLook] | None = None
        self._thorough_at = 0.0

    def look_is_due(self, now: float) -> bool:
        """Tell whether it is time for a look even if a claim would tell what waits for this model."""
        return now - self._thorough_at > _THOROUGH_SECONDS

    @property
    def is_asking(self) -> bool:
        return self._asked is not None

    def claim(self, model: Model, limit: int, *, count_to: int) -> None:
        """Ask for at most so many jobs, and how many more wait, counted up to a number."""
        self._asked = self._thread.submit(self._claim, model, limit, count_to)

    def look(self, model: Model, *, free: int, less_urgent: Mapping[Priority, int], count_to: int) -> None:
        """Ask what waits, and claim as much of it as there is use for.

        Args:
            free: slots that nobody has; below 0 if more wait for one.
            less_urgent: for each priority, how many that have slots something of it would make step aside.
            count_to: as `claim`.
        """
        now = time.monotonic()
        if thorough := self.look_is_due(now):
            self._thorough_at = now
        self._asked = self._thread.submit(self._look, model, (free, less_urgent), count_to, thorough=thorough)

    def answer(self, *, wait: bool = False) -> QueueLook | None:
        """Return the answer if there is one. With `wait`, wait for it."""
        if self._asked is None or not (wait or self._asked.done()):
            return None
        asked, self._asked = self._asked, None
        try:
            return asked.result()
        except ServiceProblem as error:
            # Raised only once the process is to stop.
            log.info("claim not answered", extra={"error": error})
            return QueueLook()

    def _claim(self, model: Model, limit: int, count_to: int) -> QueueLook:
        claim = self._jobs.claim(model=model.alias, worker=self._worker, limit=limit)
        left = None if claim is None else claim.next_priority
        return QueueLook(claim=claim, asked=True, backlog=self._waiting(model, left, count_to))

    def _look(
        self, model: Model, room: tuple[int, Mapping[Priority, int]], count_to: int, *, thorough: bool
    ) -> QueueLook:
        waiting = self._jobs.best_waiting([*self._served])
        best = waiting.get(model.alias)
        if best is not None and (jobs := self._wanted(model, best, *room)) > 0:
            return replace(self._claim(model, jobs, count_to), waiting=waiting)
        return QueueLook(waiting=waiting, backlog=self._waiting(model, best, count_to) if thorough else None)

    def _wanted(self, model: Model, best: Priority, free: int, less_urgent: Mapping[Priority, int]) -> int:
        """Return how many jobs to claim: for free slots, and those for which others step aside."""
        if less_urgent[best] <= max(0, free):
            return free
        # No more than are so urgent: with each of them would come others, to be held up here.
        return max(free, self._waiting(model, best, less_urgent[best]))

    def _waiting(self, model: Model, best: Priority | None, count_to: int) -> int:
        return 0 if best is None else self._jobs.waiting(model.alias, best, at_most=count_to)
