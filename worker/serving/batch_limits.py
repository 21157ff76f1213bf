"""How many pictures go to the device at once: learned by this worker and others from running out of memory."""

import logging
import time
from collections.abc import Sequence

from storage.fleet.memory_limits import Load, MemoryLimit
from storage.jobs.values import ClaimedJob
from storage.spec.models import Model
from worker.rendering.backend import LoadedModel
from worker.serving.services import SharedMemoryLimits

log = logging.getLogger(__name__)

#: How soon a worker sees what the others have learned.
_FRESH_SECONDS = 30.0


class BatchLimits:
    """Learned limits, looked up now and then and shared with all workers on the same hardware."""

    def __init__(self, limits: SharedMemoryLimits, *, device_name: str) -> None:
        self._limits = limits
        self._device_name = device_name
        self._known: dict[Load, tuple[float, MemoryLimit | None]] = {}

    def limit(self, model: Model, job: ClaimedJob) -> MemoryLimit:
        """Return how many pictures like this job's may be rendered at once."""
        load = self._load(model, job)
        seen_at, known = self._known.get(load, (float("-inf"), None))
        if time.monotonic() - seen_at > _FRESH_SECONDS:
            known = self._limits.of(load)
            self._known[load] = (time.monotonic(), known)
        if known is None:
            return MemoryLimit(pictures=model.batch_limit)
        return MemoryLimit(pictures=min(known.pictures, model.batch_limit), frugal=known.frugal)

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
        self._known[load] = (time.monotonic(), limit)

    def give_way(self, model: Model, jobs: Sequence[ClaimedJob], limit: MemoryLimit, loaded: LoadedModel) -> bool:
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

    def _load(self, model: Model, job: ClaimedJob) -> Load:
        return Load(
            model=model.alias, width=job.spec.width, height=job.spec.height, device_name=self._device_name[:128]
        )
