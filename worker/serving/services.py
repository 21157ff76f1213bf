"""What serving needs of the farm's services, and no more: satisfied by `storage`'s classes and by `patient`'s."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from storage.fleet.fault_log import Quarantine
from storage.fleet.learned_limits import CallKind, LearnedLimit
from storage.fleet.memory_limits import Load, MemoryLimit
from storage.jobs.values import Claim, ClaimedJob, Published, RenderedBatch
from storage.objects.object_keys import Stored
from storage.rules.faults import Fault
from storage.rules.states import Priority, State


class WorkerJobs(Protocol):
    """The moves of jobs that a worker makes (`storage.jobs.jobs.Jobs` documents each)."""

    def claim(self, *, model: str, worker: str, limit: int) -> Claim | None: ...

    def complete(self, batch: RenderedBatch, published: Sequence[Published]) -> Mapping[int, State | None]: ...

    def recover(self, claimed: Sequence[ClaimedJob], fault: Fault, message: str) -> Mapping[int, State]: ...

    def give_back(self, claimed: Sequence[ClaimedJob]) -> int: ...

    def best_waiting(self, models: Sequence[str]) -> Mapping[str, Priority]: ...

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int: ...


class LeasedJobs(Protocol):
    """What keeps the leases of jobs in hand."""

    def renew(self, claimed: Iterable[ClaimedJob]) -> set[int]: ...

    def still_held(self, claimed: Iterable[ClaimedJob]) -> set[int]: ...


class PictureStore(Protocol):
    """Where finished pictures go."""

    def put(self, key: str, data: bytes, *, wanted: Callable[[], bool]) -> Stored | None:
        """Store a picture; None if it was not wanted any more: that is asked before each attempt."""
        ...

    def get(self, key: str) -> bytes: ...

    def delete(self, key: str) -> None: ...


class Quarantines(Protocol):
    """Whether a worker is left out of serving."""

    def quarantine_of(self, worker: str, model: str) -> Quarantine | None: ...


class SharedLearnedLimits(Protocol):
    """The best numbers of pictures a call, which all workers with the same hardware share."""

    def of(self, kind: CallKind) -> LearnedLimit | None: ...

    def learn(self, kind: CallKind, limit: LearnedLimit) -> None: ...


class SharedMemoryLimits(Protocol):
    """The memory limits that all workers with the same hardware share."""

    def of(self, load: Load) -> MemoryLimit | None: ...

    def learn(self, load: Load, limit: MemoryLimit) -> None: ...
