"""The farm's services as a turn sees them: a call returns once the service is there, however long that takes.

Each class has the methods of the service that a worker uses, with the same meaning, except that none of them raises
ServiceProblem before the process is to stop (`OutageRetry`). Every one of these calls is idempotent.
"""

from collections.abc import Callable, Mapping, Sequence

from storage.fleet.fault_log import Quarantine
from storage.fleet.learned_limits import CallKind, LearnedLimit
from storage.fleet.memory_limits import Load, MemoryLimit
from storage.jobs.values import Claim, ClaimedJob, Published, RenderedBatch
from storage.objects.inputs import ObjectReader
from storage.objects.object_keys import Stored
from storage.objects.probe import check_first_write_wins
from storage.objects.store import ObjectStore
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from worker.serving.outages import OutageRetry
from worker.serving.services import Quarantines, SharedLearnedLimits, SharedMemoryLimits, WorkerJobs
from worker.serving.watchdog import Watchdog


class PatientJobs:
    """Jobs, waiting for the database."""

    def __init__(self, jobs: WorkerJobs, retry: OutageRetry) -> None:
        self._jobs = jobs
        self._retry = retry

    def claim(self, *, model: str, worker: str, limit: int) -> Claim | None:
        return self._retry(lambda: self._jobs.claim(model=model, worker=worker, limit=limit), what="claim jobs")

    def complete(self, batch: RenderedBatch, published: Sequence[Published]) -> Mapping[int, State | None]:
        return self._retry(lambda: self._jobs.complete(batch, published), what="record pictures")

    def recover(self, claimed: Sequence[ClaimedJob], fault: Fault, message: str) -> Mapping[int, State]:
        return self._retry(lambda: self._jobs.recover(claimed, fault, message), what="record what went wrong")

    def give_back(self, claimed: Sequence[ClaimedJob]) -> int:
        return self._retry(lambda: self._jobs.give_back(claimed), what="give jobs back")

    def best_waiting(self, models: Sequence[str]) -> Mapping[str, Priority]:
        return self._retry(lambda: self._jobs.best_waiting(models), what="look at the queue")

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:
        return self._retry(lambda: self._jobs.waiting(model, priority, at_most=at_most), what="look at the queue")


class PatientObjects:
    """The object store that finished pictures go to; no picture is written before it was probed.

    The supervisor probes it too, but may have found it away.
    """

    def __init__(self, objects: ObjectStore, retry: OutageRetry) -> None:
        self._objects = objects
        self._retry = retry
        self._probed = False

    def put(self, key: str, data: bytes, *, wanted: Callable[[], bool]) -> Stored | None:
        return self._retry(lambda: self._put(key, data, wanted), what="store pictures")

    def _put(self, key: str, data: bytes, wanted: Callable[[], bool]) -> Stored | None:
        if not self._probed:
            check_first_write_wins(self._objects)
            self._probed = True
        return self._objects.put(key, data) if wanted() else None

    def get(self, key: str) -> bytes:
        return self._retry(lambda: self._objects.get(key), what="read a picture")

    def delete(self, key: str) -> None:
        self._retry(lambda: self._objects.delete(key), what="remove a picture")


class PatientInputs:
    """The object store that inputs come from, read by the thread that drives the device.

    While it waits for the store, for however short a time, the watchdog does not count the device as silent.
    """

    def __init__(self, objects: ObjectReader, retry: OutageRetry, watchdog: Watchdog) -> None:
        self._objects = objects
        self._retry = retry
        self._watchdog = watchdog

    def get(self, key: str) -> bytes:
        with self._watchdog.waiting():
            return self._retry(lambda: self._objects.get(key), what="fetch inputs")


class PatientQuarantines:
    """Quarantines, waiting for the database."""

    def __init__(self, quarantines: Quarantines, retry: OutageRetry) -> None:
        self._quarantines = quarantines
        self._retry = retry

    def quarantine_of(self, worker: str, model: str) -> Quarantine | None:
        return self._retry(lambda: self._quarantines.quarantine_of(worker, model), what="look up quarantines")


class PatientMemoryLimits:
    """Memory limits, waiting for the database."""

    def __init__(self, limits: SharedMemoryLimits, retry: OutageRetry) -> None:
        self._limits = limits
        self._retry = retry

    def of(self, load: Load) -> MemoryLimit | None:
        return self._retry(lambda: self._limits.of(load), what="look up memory limits")

    def learn(self, load: Load, limit: MemoryLimit) -> None:
        self._retry(lambda: self._limits.learn(load, limit), what="tell memory limits")


class PatientLearnedLimits:
    """Learned limits, waiting for the database."""

    def __init__(self, limits: SharedLearnedLimits, retry: OutageRetry) -> None:
        self._limits = limits
        self._retry = retry

    def of(self, kind: CallKind) -> LearnedLimit | None:
        return self._retry(lambda: self._limits.of(kind), what="look up learned limits")

    def learn(self, kind: CallKind, limit: LearnedLimit) -> None:
        self._retry(lambda: self._limits.learn(kind, limit), what="tell learned limits")
