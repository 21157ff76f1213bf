"""By how many threads of a CPU a loop's calls are made: chosen for some calls at a time, whose pace is compared."""

from collections.abc import Sequence

from storage.jobs.values import ClaimedJob
from storage.spec.models import Model
from worker.serving.thread_choice import BatchKind, ThreadChoice

#: Calls that are timed together; a recipe names each change.
_CALLS = 8


class TickThreads:
    """Chooses threads for the calls of one loop, and tells `ThreadChoice` what they took."""

    def __init__(self, choice: ThreadChoice, model: Model) -> None:
        self._choice = choice
        self._model = model
        self._kind: BatchKind | None = None
        self._jobs: Sequence[ClaimedJob] = ()
        self._threads: int | None = None
        self._seconds: list[float] = []

    def choose(self, jobs: Sequence[ClaimedJob]) -> int | None:
        """Return the threads for the next call; it stays the same for some calls of the same pictures a call."""
        spec = jobs[0].spec
        kind = BatchKind(model=self._model.alias, width=spec.width, height=spec.height, steps=1, pictures=len(jobs))
        if kind != self._kind or not self._seconds:
            self._kind, self._jobs, self._seconds = kind, jobs, []
            self._threads = self._choice.choose(self._model, jobs, kind)
        return self._threads

    def took(self, seconds: float) -> None:
        """Note how long the call took."""
        if self._kind is None:
            return
        self._seconds.append(seconds)
        if len(self._seconds) == _CALLS:
            self._choice.rendered(
                self._model, self._jobs, threads=self._threads, seconds=sum(self._seconds), kind=self._kind
            )
            self._seconds = []
