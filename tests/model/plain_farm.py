"""The moves of jobs once more, in plain Python and without a database: what `storage.jobs.jobs` is held against.

Written from the rules, not from the code: a job is an object, a lease a flag, and every decision a line.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from storage.rules.faults import Fault
from storage.rules.states import FINAL, Priority, State

MAX_ATTEMPTS = 3

_HOPELESS = {Fault.BAD_SPECIFICATION, Fault.BAD_PICTURE}
_HOPELESS_WITHOUT_OTHERS = {Fault.OUT_OF_MEMORY, Fault.BAD_WEIGHTS}
_NOT_THE_JOBS_FAULT = {Fault.BROKEN_DEVICE, Fault.STORE_AWAY, Fault.DATABASE_AWAY, Fault.BROKER_AWAY}
_SUSPICIOUS = {Fault.TIMEOUT, Fault.WORKER_DIED, Fault.LOST_LEASE}
_BETTER_ELSEWHERE = {
    *(Fault.OUT_OF_MEMORY, Fault.BROKEN_DEVICE, Fault.BAD_WEIGHTS, Fault.PIPELINE_ERROR),
    *(Fault.TIMEOUT, Fault.WORKER_DIED),
}


@dataclass
class PlainJob:
    id: int
    render: str
    key: str
    priority: Priority
    state: State = State.QUEUED
    attempt: int = 0
    fence: int = 0
    suspect: bool = False
    worker: str | None = None
    #: Its last worker leaves it to others.
    elsewhere: bool = False
    #: Its lease has run out.
    lapsed: bool = False
    fault: Fault | None = None

    def leave_worker(self, state: State) -> None:
        self.state, self.lapsed = state, False

    def hit_by(self, fault: Fault, *, others: bool) -> None:
        """What a fault makes of a running job."""
        burned = fault not in _NOT_THE_JOBS_FAULT and (fault is not Fault.LOST_LEASE or self.suspect)
        hopeless = fault in _HOPELESS or (fault in _HOPELESS_WITHOUT_OTHERS and not others)
        failed = hopeless or (burned and self.attempt >= MAX_ATTEMPTS)
        if not burned and not failed:
            self.attempt -= 1
        self.suspect = self.suspect or fault in _SUSPICIOUS
        self.elsewhere = fault in _BETTER_ELSEWHERE and others and not failed
        self.fault = fault
        self.leave_worker(State.FAILED if failed else State.QUEUED)


@dataclass(frozen=True)
class Held:
    """What a worker believes to hold."""

    job: PlainJob
    fence: int

    @property
    def ours(self) -> bool:
        return self.job.state is State.RUNNING and self.job.fence == self.fence


class PlainFarm:
    """Jobs of one model, by id."""

    def __init__(self) -> None:
        self.jobs: dict[int, PlainJob] = {}
        self.held: set[str] = set()

    def add(self, job_id: int, render: str, key: str, priority: Priority) -> None:
        self.jobs[job_id] = PlainJob(id=job_id, render=render, key=key, priority=priority)

    def of_render(self, render: str) -> Iterator[PlainJob]:
        return (job for job in self.jobs.values() if job.render == render)

    def held_by(self, worker: str) -> Iterator[PlainJob]:
        return (job for job in self.jobs.values() if job.state is State.RUNNING and job.worker == worker)

    def open_to(self, worker: str) -> list[PlainJob]:
        """What this worker may claim."""
        return [
            job
            for job in self.jobs.values()
            if job.state is State.QUEUED and not (job.elsewhere and job.worker == worker)
        ]

    def claim(self, ids: Sequence[int], worker: str, limit: int) -> list[Held]:
        """Check that a claim was lawful, and carry it out."""
        eligible = self.open_to(worker)
        claimed = [self.jobs[job_id] for job_id in ids]
        assert 0 < len(claimed) <= limit
        assert all(job in eligible for job in claimed), "claimed what was not free for this worker"
        head = claimed[0]
        assert head.priority == min(job.priority for job in eligible), "something more urgent was waiting"
        assert all(job.key == head.key for job in claimed), "claimed together what cannot be rendered together"
        assert not any(job.suspect for job in claimed) or len(claimed) == 1, "a suspect had company"
        if not head.suspect:
            mates = [job for job in eligible if job.key == head.key and not job.suspect]
            assert len(claimed) == min(limit, len(mates)), "a batch was not filled"
        for job in claimed:
            job.state, job.worker, job.lapsed, job.fault = State.RUNNING, worker, False, None
            job.fence += 1
            job.attempt += 1
        return [Held(job, job.fence) for job in claimed]

    def complete(self, held: Collection[Held]) -> dict[int, State]:
        """The jobs that were not ours, with their states."""
        refused: dict[int, State] = {}
        for one in held:
            if one.ours:
                one.job.leave_worker(State.DONE)
            elif (one.job.state, one.job.fence) != (State.DONE, one.fence):
                refused[one.job.id] = one.job.state
        return refused

    def set_back(self, jobs: Collection[PlainJob], fault: Fault, *, others: bool) -> dict[int, State]:
        for job in jobs:
            job.hit_by(fault, others=others)
        self.hold_again()
        return {job.id: job.state for job in jobs}

    def requeue_from_worker(self, worker: str) -> int:
        given = list(self.held_by(worker))
        for job in given:
            job.attempt -= 1
            job.elsewhere = False
            job.leave_worker(State.QUEUED)
        self.hold_again()
        return len(given)

    def cancel(self, render: str) -> int:
        return sum([self.cancel_one(job) for job in self.of_render(render)])

    def cancel_one(self, job: PlainJob) -> bool:
        if job.state in FINAL:
            return False
        job.fence += 1
        job.leave_worker(State.CANCELLED)
        return True

    def hold(self, render: str) -> int:
        self.held.add(render)
        return self._all(render, State.QUEUED, State.HELD)

    def release(self, render: str) -> int:
        self.held.discard(render)
        return self._all(render, State.HELD, State.QUEUED)

    def hold_again(self) -> None:
        """What comes back of a held render is held with the rest."""
        for render in self.held:
            self._all(render, State.QUEUED, State.HELD)

    def _all(self, render: str, before: State, after: State) -> int:
        moved = [job for job in self.of_render(render) if job.state is before]
        for job in moved:
            job.state = after
        return len(moved)

    def reprioritise(self, render: str, priority: Priority) -> int:
        waiting = [job for job in self.of_render(render) if job.state in (State.QUEUED, State.HELD)]
        changed = [job for job in waiting if job.priority != priority]
        for job in changed:
            job.priority = priority
        return len(changed)

    def retry(self, render: str) -> int:
        failed = [job for job in self.of_render(render) if job.state is State.FAILED]
        for job in failed:
            job.state, job.attempt, job.suspect, job.elsewhere, job.fault = State.QUEUED, 0, False, False, None
        self.hold_again()
        return len(failed)
