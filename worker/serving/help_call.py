"""Calling for the other workers of a CPU, which start once the backlog is worth it."""

from pathlib import Path

from storage.rules.states import Priority
from storage.spec.models import Model
from worker.serving.services import WorkerJobs

#: The cost of counting is bounded.
_MOST_COUNTED = 2000


def worth_another(waiting: int, seconds_per_picture: float, *, start_seconds: float) -> bool:
    """Decide whether another worker is worth its start: one that would sit idle soon is not.

    With twice a start's seconds of work left, two workers are done in three quarters of the time of one.
    """
    return waiting * seconds_per_picture > 2 * start_seconds


class HelpCall:
    """Calls by making a file, which the supervisor sees (`worker.process.reserves`)."""

    def __init__(self, jobs: WorkerJobs, file: Path | None, *, start_seconds: float) -> None:
        """
        Args:
            file: None: there is nobody to call.
            start_seconds: how long a worker takes to start here.
        """
        self._jobs = jobs
        self._file = file
        self._start_seconds = start_seconds
        self._seconds_per_picture: float | None = None

    def rendered(self, pictures: int, seconds: float) -> None:
        """Note how long a batch took."""
        if pictures:
            self._seconds_per_picture = seconds / pictures

    def consider(self, model: Model, waiting: Priority) -> None:
        """Call, if what waits at this priority is worth it; costs nothing while nobody would come."""
        if self._file is None or self._seconds_per_picture is None or self._file.exists():
            return
        count = self._jobs.waiting(model.alias, waiting, at_most=_MOST_COUNTED)
        # Without its folder the supervisor is gone, and this process soon is.
        worth = worth_another(count, self._seconds_per_picture, start_seconds=self._start_seconds)
        if worth and self._file.parent.exists():
            self._file.touch()
