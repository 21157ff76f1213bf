"""By how many threads a CPU renders: tried out on the batches that come, and again when their pace falls.

The threads of a process wait for each other many times in each step. Where steps are short, or another program takes
a core, one thread alone is faster than several.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from storage.jobs.values import ClaimedJob
from storage.rules.states import Priority
from storage.spec.models import DiffusersModel, Model

log = logging.getLogger(__name__)

#: A number of threads that needs so much of the time is better; less is chance, and bits would change for it.
_BETTER = 0.9
#: The pace has fallen when batches take so many times as long as the fastest did, so many times in a row.
_FALLEN, _FALLEN_BATCHES = 1.5, 3
#: Without a fall, when the other number is tried again: whoever took a core may be gone.
_AGAIN_SECONDS = 900.0
#: Batches of a trial: the first one may have to prepare kernels, so the fastest counts.
_TRIAL_BATCHES = 2
_TRIALS_AN_HOUR = 12
#: No batch is to take longer than this for the sake of a trial.
_LONGEST_TRIAL_SECONDS = 30.0
#: Kinds of batches that are remembered.
_MOST_KINDS = 500


@dataclass(frozen=True, kw_only=True)
class BatchKind:
    """What a batch's pace depends on, beside threads and neighbours."""

    model: str
    width: int
    height: int
    steps: int
    pictures: int

    @classmethod
    def of(cls, model: Model, jobs: Sequence[ClaimedJob]) -> "BatchKind":
        spec = jobs[0].spec
        return cls(
            model=model.alias,
            width=spec.width,
            height=spec.height,
            steps=spec.num_inference_steps,
            pictures=len(jobs),
        )


@dataclass
class KnownPace:
    """What is known of a kind of batches; times are seconds per batch."""

    #: The number that is used now, and the other one.
    threads: int
    other: int
    #: Batches rendered by that number; the first one prepared kernels and is not counted.
    batches: int = 0
    last: float = 0.0
    #: The faster one of the last two: what is compared with a trial, of which the faster one counts, too.
    pace: float = 0.0
    best: float = 0.0
    #: How many in a row were slow.
    slow: int = 0
    tried_at: float | None = None
    #: What the batches of the trial under way took; None: there is none.
    trial: list[float] | None = None

    def is_due(self, now: float) -> bool:
        """Decide whether the other number is worth a trial now."""
        if self.batches < 2 or self.last * max(1.0, self.threads / self.other) > _LONGEST_TRIAL_SECONDS:
            return False
        return self.tried_at is None or self.slow >= _FALLEN_BATCHES or now - self.tried_at >= _AGAIN_SECONDS

    def note(self, seconds: float) -> None:
        """Note a batch rendered by the number that is used now."""
        self.batches += 1
        if self.batches > 1:
            self.pace = min(seconds, self.last or seconds)
            self.last = seconds
            self.best = min(seconds, self.best or seconds)
            self.slow = self.slow + 1 if seconds > _FALLEN * self.best else 0

    def note_trial(self, seconds: float, now: float) -> bool:
        """Note a batch rendered by the other number; after the last of a trial use the better one, and return True."""
        self.trial = [*(self.trial or []), seconds]
        if len(self.trial) < _TRIAL_BATCHES:
            return False
        if (tried := min(self.trial)) < _BETTER * self.pace:
            self.threads, self.other, self.last, self.pace = self.other, self.threads, tried, tried
        # Slow as it may be by now, it is the best there is.
        self.trial, self.tried_at, self.slow, self.best = None, now, 0, self.pace
        return True


@dataclass
class ThreadChoice:
    """Chooses between one thread and all that this process has; learns from what batches take."""

    #: How many threads there are for this process; None: it is not ours to choose, or the device is no CPU.
    most: int | None
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[BatchKind, KnownPace] = field(default_factory=OrderedDict)
    _trials: deque[float] = field(default_factory=lambda: deque(maxlen=_TRIALS_AN_HOUR))

    def choose(self, model: Model, jobs: Sequence[ClaimedJob], kind: BatchKind | None = None) -> int | None:
        """Return by how many threads to render a batch; None: by those that the process started with.

        Args:
            kind: of what is timed, if it is not the whole batch.
        """
        if jobs[0].threads is not None:
            return jobs[0].threads
        if self.most is None or not self._may_choose(model):
            return self.most
        known, now = self._of(kind or BatchKind.of(model, jobs)), self.clock()
        if jobs[0].priority is Priority.INTERACTIVE:
            # Who waits at a screen gets what is known to be good.
            return known.threads
        if known.trial is None and known.is_due(now) and self._may_try(now):
            known.trial = []
            self._trials.append(now)
        return known.threads if known.trial is None else known.other

    def rendered(
        self,
        model: Model,
        jobs: Sequence[ClaimedJob],
        *,
        threads: int | None,
        seconds: float,
        kind: BatchKind | None = None,
    ) -> None:
        """Note how long a batch took that was rendered by what `choose` returned, of the same kind."""
        if jobs[0].threads is not None or not self._may_choose(model):
            return
        kind = kind or BatchKind.of(model, jobs)
        known, before = self._of(kind), self._of(kind).pace
        if threads == known.threads:
            known.note(seconds)
        elif known.note_trial(seconds, self.clock()):
            log.info(
                "threads tried",
                extra={
                    "model": kind.model,
                    "pictures": kind.pictures,
                    "tried": threads,
                    "seconds": round(seconds, 3),
                    "before": round(before, 3),
                    "threads": known.threads,
                },
            )

    def _may_choose(self, model: Model) -> bool:
        """Tell whether there is a choice; what is compiled is compiled for a number of threads, in minutes."""
        return (self.most or 1) > 1 and not (isinstance(model, DiffusersModel) and model.compile != "none")

    def _may_try(self, now: float) -> bool:
        return len(self._trials) < _TRIALS_AN_HOUR or now - self._trials[0] >= 3600

    def _of(self, kind: BatchKind) -> KnownPace:
        known = self._known.setdefault(kind, KnownPace(threads=self.most or 1, other=1))
        self._known.move_to_end(kind)
        while len(self._known) > _MOST_KINDS:
            self._known.popitem(last=False)
        return known
