"""Calling for the other workers of a CPU, which start once the backlog is worth it."""

import time
from collections.abc import Callable
from pathlib import Path

from storage.rules.states import Priority
from storage.spec.models import Model
from worker.serving.services import WorkerJobs

#: The cost of counting is bounded.
_MOST_COUNTED = 2000
#: Of a farm that nobody kept waiting for so long, what waited before says nothing any more.
_FORGOTTEN_SECONDS = 600.0


def worth_another(waiting: int, seconds_per_picture: float, *, start_seconds: float, missed: float = 0.0) -> bool:
    """Decide whether another worker is worth its start: one that would sit idle soon is not.

    With twice a start's seconds of work left, two workers are done in three quarters of the time of one. Renders that
    are never so long by themselves come one after the other: what has passed counts, too, so that no farm misses
    another worker for longer than a start would have taken (as whoever rents skis buys them once the rents add up to
    their price).

    Args:
        missed: for how many seconds this worker rendered lately while others waited, whom another could have served.
    """
    return waiting * seconds_per_picture + missed > 2 * start_seconds


class HelpCall:
    """Calls by making a file, which the supervisor sees (`worker.process.reserves`)."""

    def __init__(
        self,
        jobs: WorkerJobs,
        file: Path | None,
        *,
        start_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            file: None: there is nobody to call.
            start_seconds: how long a worker takes to start here.
        """
        self._jobs = jobs
        self._file = file
        self._start_seconds = start_seconds
        self._clock = clock
        self._seconds_per_picture: float | None = None
        #: Whether the last claim left others waiting.
        self._others_wait = False
        #: As in `worth_another`, and when it last grew.
        self._missed, self._missed_at = 0.0, clock()

    def rendered(self, pictures: int, seconds: float) -> None:
        """Note how long a batch took."""
        if not pictures:
            return
        self._seconds_per_picture = seconds / pictures
        if self._others_wait:
            self._forget_what_is_long_ago()
            self._missed, self._missed_at = self._missed + seconds, self._clock()

    def claimed(self, model: Model, waiting: Priority | None) -> None:
        """Note what a claim left waiting, if anything, and call if that is worth it.

        Costs nothing while nobody would come.
        """
        self._others_wait = waiting is not None
        if waiting is None or self._file is None or self._seconds_per_picture is None:
            return
        if self._file.exists():
            # Whoever was called is to begin before more are.
            self._missed = 0.0
            return
        self._forget_what_is_long_ago()
        count = self._jobs.waiting(model.alias, waiting, at_most=_MOST_COUNTED)
        worth = worth_another(count, self._seconds_per_picture, start_seconds=self._start_seconds, missed=self._missed)
        # Without its folder the supervisor is gone, and this process soon is.
        if worth and self._file.parent.exists():
            self._missed = 0.0
            self._file.touch()

    def _forget_what_is_long_ago(self) -> None:
        if self._clock() - self._missed_at > _FORGOTTEN_SECONDS:
            self._missed = 0.0
