"""How many pictures go to the device at once: said by the registry or learned, and bounded by memory."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from storage.fleet.learned_limits import LimitReason
from storage.fleet.memory_limits import Load, MemoryLimit
from storage.jobs.values import ClaimedJob
from storage.rules.states import Priority
from storage.spec.file_marks import MarkedEntries
from storage.spec.models import MOST_AT_ONCE, DiffusersModel, Model
from worker.rendering.backend import LoadedModel
from worker.serving.batch_learner import BatchLearner
from worker.serving.services import SharedMemoryLimits

log = logging.getLogger(__name__)

#: How soon a worker sees what the others have learned, and which others there are.
_FRESH_SECONDS = 30.0
#: Jobs are claimed ahead as long as so many batches wait: with fewer, others are to have them.
_DEEP_BATCHES = 4
#: A larger number is tried while at least so many batches of it wait.
_TRIAL_BATCHES = 2
#: What waits for a batch waits for all of it.
_LONGEST_BATCH_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class CallLimit:
    #: Maximum number of pictures in one call.
    pictures: int
    #: Only with VAE slicing and tiling, which save memory.
    frugal: bool = False
    reason: LimitReason = LimitReason.REGISTRY
    #: How many are not known to exceed the memory.
    fits: int = MOST_AT_ONCE


class BatchLimits:
    """Limits of a device process; what it learns is shared with all workers on the same hardware."""

    def __init__(
        self,
        limits: SharedMemoryLimits,
        *,
        device_name: str,
        learner: BatchLearner | None = None,
        workers: Callable[[str], int] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            learner: None: where the registry says nothing, batches are of the default size.
            workers: how many workers serve a model, this one among them.
        """
        self._clock = clock
        self._entries = MarkedEntries(clock)
        self._limits = limits
        self._device_name = device_name
        self._learner = learner
        self._count_workers = workers
        self._known: dict[Load, tuple[float, MemoryLimit | None]] = {}
        self._workers: dict[str, tuple[float, int]] = {}
        #: By model, a job of the last call.
        self._last: dict[str, ClaimedJob] = {}

    def limit(self, model: Model, job: ClaimedJob) -> CallLimit:
        """Return how many pictures like this job's may be rendered at once."""
        wanted, reason = self._wanted(model, job)
        if not job.together:
            self._last[model.alias] = job
        memory = self._memory(model, job)
        if memory is None:
            return CallLimit(pictures=wanted, reason=reason)
        if memory.pictures < wanted:
            reason = LimitReason.MEMORY
        pictures = min(memory.pictures, wanted)
        return CallLimit(pictures=pictures, frugal=memory.frugal, reason=reason, fits=memory.pictures)

    def trial(self, model: Model, job: ClaimedJob, key: str, *, longest: float) -> int | None:
        """Return with how many pictures like this job's to try a call, if so many wait (`enough`); None: with none.

        Args:
            key: what a call's pictures have in common.
            longest: no call that is expected to take longer, in seconds.
        """
        if self._learner is None or not is_learned(model) or job.priority is Priority.INTERACTIVE or job.suspect:
            return None
        most = self.limit(model, job).fits
        return self._learner.trial(model, job, key, most=most, longest=longest)

    def is_searching(self, model: Model, job: ClaimedJob) -> bool:
        """Tell whether it is still to be found how many pictures like this job's are best."""
        return self._learner is not None and is_learned(model) and self._learner.is_searching(model, job)

    def took(self, model: Model, job: ClaimedJob, key: str, *, pictures: int, share: float, seconds: float) -> None:
        """Note what calls of so many pictures took: a picture's share, and all of a call, in seconds."""
        if self._learner is not None and is_learned(model):
            self._learner.took(model, job, key, pictures=pictures, share=share, seconds=seconds)

    def enough(self, model: Model, tried: int) -> int:
        """Return how many jobs must wait so that a trial with so many takes nothing from anybody."""
        return tried * max(_TRIAL_BATCHES, self.workers(model))

    def deep(self, model: Model, slots: int) -> int:
        """Return how many jobs must wait so that some may be claimed ahead."""
        return _DEEP_BATCHES * max(slots, model.batch)

    def count_to(self, model: Model, limit: CallLimit) -> int:
        """Return how far what waits has to be counted."""
        deep = self.deep(model, limit.pictures)
        return max(deep, self.enough(model, 2 * limit.pictures)) if is_learned(model) else deep

    def for_batch(self, model: Model, jobs: Sequence[ClaimedJob]) -> CallLimit:
        """Return the limit for jobs that one pipeline call could make: as it is, or as it is tried with so many."""
        limit = self.limit(model, jobs[0])
        tried = self._tried(model, jobs[0])
        if tried is not None and (tried < limit.pictures or limit.pictures < len(jobs)):
            return replace(limit, pictures=tried, reason=LimitReason.TRIAL)
        return limit

    def to_claim(self, model: Model, count: Callable[[int], int]) -> int:
        """Return how many jobs to claim for one call.

        Args:
            count: says how many wait, counted up to a number.
        """
        like = self._last.get(model.alias)
        if not is_learned(model) or like is None:
            return model.batch
        # The next ones are most likely of the last ones' kind; what is too much for others goes back (`for_batch`).
        limit, tried = self.limit(model, like), self._tried(model, like)
        if (most := max(limit.pictures, tried or 0)) <= model.batch:
            return tried or limit.pictures
        waiting = count(self.enough(model, most))
        if tried is not None and (tried < limit.pictures or waiting >= self.enough(model, tried)):
            return tried
        return self.may_hold(model, limit, held=0, waiting=waiting)

    def _tried(self, model: Model, job: ClaimedJob) -> int | None:
        return self.trial(model, job, job.spec.batch_key(), longest=_LONGEST_BATCH_SECONDS)

    def may_hold(self, model: Model, limit: CallLimit, *, held: int, waiting: int) -> int:
        """Return how many jobs a worker may have for its next call, while so many more wait.

        What is learned is no right to more than a batch while others find less: as if all of them were idle, each may
        have its share of what is here and waits.
        """
        if not is_learned(model) or limit.pictures <= model.batch:
            return limit.pictures
        return max(model.batch, min(limit.pictures, (held + waiting) // self.workers(model)))

    def workers(self, model: Model) -> int:
        """Return how many workers serve a model, at least 1."""
        seen_at, count = self._workers.get(model.alias, (float("-inf"), 1))
        if self._clock() - seen_at > _FRESH_SECONDS:
            count = max(1, self._count_workers(model.alias))
            self._workers[model.alias] = (self._clock(), count)
        return count

    def exceeded(self, model: Model, job: ClaimedJob, pictures: int, *, frugal: bool) -> None:
        """Halve the limit: so many pictures at once were too many."""
        load, limit = self._load(model, job), MemoryLimit(pictures=max(1, pictures // 2), frugal=frugal)
        size = f"{load.width}x{load.height}"
        log.warning(
            "out of memory",
            extra={
                "model": model.alias,
                "size": size,
                "pictures": pictures,
                "limit": limit.pictures,
                "saving_memory": frugal,
            },
        )
        self._limits.learn(load, limit)
        self._known[load] = (self._clock(), limit)

    def give_way(self, model: Model, jobs: Sequence[ClaimedJob], limit: CallLimit, loaded: LoadedModel) -> bool:
        """Try to use less memory: first fewer pictures at once, then a pipeline that works piece by piece.

        Return False if these jobs, rendered under this limit, were as little as it gets.
        """
        if len(jobs) > 1:
            self.exceeded(model, jobs[0], len(jobs), frugal=limit.frugal)
            return True
        if limit.frugal or not loaded.save_memory():
            return False
        self.exceeded(model, jobs[0], 1, frugal=True)
        return True

    def _wanted(self, model: Model, job: ClaimedJob) -> tuple[int, LimitReason]:
        if job.together:
            # As many as there were when it was made.
            return MOST_AT_ONCE, LimitReason.REGISTRY
        if model.batch_limit is not None:
            return model.batch_limit, LimitReason.REGISTRY
        if not is_learned(model):
            return model.batch, LimitReason.COMPILED
        return (model.batch, LimitReason.DEFAULT) if self._learner is None else self._learner.limit(model, job)

    def _memory(self, model: Model, job: ClaimedJob) -> MemoryLimit | None:
        load = self._load(model, job)
        seen_at, known = self._known.get(load, (float("-inf"), None))
        if self._clock() - seen_at > _FRESH_SECONDS:
            known = self._limits.of(load)
            self._known[load] = (self._clock(), known)
        return known

    def _load(self, model: Model, job: ClaimedJob) -> Load:
        return Load(
            model=model.alias,
            # Other files under the same names may be of a smaller model.
            entry=self._entries.of(model),
            width=job.spec.width,
            height=job.spec.height,
            device_name=self._device_name[:128],
        )


def is_learned(model: Model) -> bool:
    """Tell whether a model's limit is learned: the registry says none, and another number need not be compiled."""
    return model.batch_limit is None and not (isinstance(model, DiffusersModel) and model.compile != "none")
