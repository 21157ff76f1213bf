"""Renewing the leases of the jobs in hand, on a thread beside the one that drives the device."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from storage.errors import DatabaseProblem
from storage.jobs.values import ClaimedJob
from storage.process.logs import LogThrottle
from worker.serving.services import LeasedJobs
from worker.serving.watchdog import Watchdog

log = logging.getLogger(__name__)

#: How often to ask whether jobs in hand were cancelled; more often for jobs that somebody follows over the API.
_WATCH_SECONDS = 1.0
_WATCH_CLOSELY_SECONDS = 0.1
#: What was asked longer ago says nothing of now.
_FRESH_SECONDS = 5.0


class Leases:
    """Renews leases as long as the device makes progress, and knows which jobs are no longer ours.

    Once the watchdog calls the device hung, the leases of what it renders are left to expire: a hung kernel must not
    keep its jobs. Leases of pictures that are waiting to be stored are renewed in any case.
    """

    def __init__(
        self,
        jobs: LeasedJobs,
        *,
        renew_seconds: float,
        watchdog: Watchdog,
        on_stall: Callable[[Sequence[ClaimedJob]], None],
    ) -> None:
        """
        Args:
            on_stall: called once, on the renewing thread, with the jobs that the device hangs with.
        """
        self._jobs = jobs
        self._renew_seconds = renew_seconds
        self._watchdog = watchdog
        self._on_stall = on_stall
        self._lock = threading.Lock()
        self._rendering: dict[int, ClaimedJob] = {}
        self._publishing: dict[int, ClaimedJob] = {}
        self._ahead: dict[int, ClaimedJob] = {}
        self._lost: set[tuple[int, int]] = set()
        self._renewed_at = time.monotonic()
        #: When it was known last which jobs are ours.
        self._asked_at = time.monotonic()
        self._stall_reported = False

    def start(self) -> None:
        threading.Thread(target=self._keep, name="leases", daemon=True).start()

    def add(self, jobs: Iterable[ClaimedJob]) -> None:
        """Renew these jobs: they go to the device."""
        with self._lock:
            for job in jobs:
                self._ahead.pop(job.id, None)
                self._rendering[job.id] = job

    def add_ahead(self, jobs: Iterable[ClaimedJob]) -> None:
        """Renew these jobs: they go to the device later, or again. What it hangs with, they do not."""
        with self._lock:
            for job in jobs:
                self._rendering.pop(job.id, None)
                self._ahead[job.id] = job

    def rendered(self, jobs: Iterable[ClaimedJob]) -> None:
        """Note that these jobs left the device and are being published."""
        with self._lock:
            for job in jobs:
                if self._rendering.pop(job.id, None) is not None:
                    self._publishing[job.id] = job

    def drop(self, jobs: Iterable[ClaimedJob]) -> None:
        """Stop renewing these jobs: they have ended, here or elsewhere."""
        with self._lock:
            for job in jobs:
                for held in (self._ahead, self._rendering, self._publishing):
                    held.pop(job.id, None)
                self._lost.discard((job.id, job.fence))

    def at_the_device(self, jobs: Iterable[ClaimedJob]) -> list[ClaimedJob]:
        """Return those of these jobs that are neither rendered nor dropped."""
        with self._lock:
            return [job for job in jobs if job.id in self._rendering]

    def ahead(self) -> list[ClaimedJob]:
        """Return the jobs that are ours and not at the device."""
        with self._lock:
            return [*self._ahead.values()]

    def until_published(self, seconds: float) -> None:
        """Wait until all pictures that left the device are stored, at most so many seconds."""
        deadline = time.monotonic() + seconds
        while self._publishing and time.monotonic() < deadline:
            time.sleep(0.05)

    def all_lost(self, jobs: Iterable[ClaimedJob]) -> bool:
        """Tell whether none of these jobs is ours any more: nobody would take the pictures."""
        if not self._lost:
            # As nearly always, and asked of each picture before each call.
            return False
        with self._lock:
            return all((job.id, job.fence) in self._lost for job in jobs)

    def still_ours(self, job: ClaimedJob) -> bool:
        """Tell whether a job is ours, as far as is known lately; after a pause, others are asked.

        Whoever was frozen for longer than a lease must not store a picture of a job that was cancelled meanwhile: what
        it might leave was looked for already, and if it dies now nobody looks again.
        """
        with self._lock:
            if (job.id, job.fence) in self._lost:
                return False
            if time.monotonic() - self._asked_at < _FRESH_SECONDS:
                return True
        try:
            return job.id in self._jobs.still_held([job])
        except DatabaseProblem:
            # Nobody could take it meanwhile.
            return True

    def _keep(self) -> None:
        throttle = LogThrottle()
        while True:
            with self._lock:
                closely = any(job.watched for job in (*self._rendering.values(), *self._ahead.values()))
            time.sleep(_WATCH_CLOSELY_SECONDS if closely else _WATCH_SECONDS)
            try:
                self._keep_once()
            except DatabaseProblem as error:
                # The next round tries again. Until then leases run, and an expired one is ours unless it was taken.
                if throttle.passes():
                    log.warning("leases not renewed", extra={"error": error})

    def _keep_once(self) -> None:
        now = time.monotonic()
        stalled = self._watchdog.stalled()
        with self._lock:
            rendering = tuple(self._rendering.values())
            held = [*self._publishing.values(), *self._ahead.values(), *(() if stalled else rendering)]
        if stalled and rendering and not self._stall_reported:
            self._stall_reported = True
            self._on_stall(rendering)
        if not held:
            return
        if now - self._renewed_at >= self._renew_seconds:
            ours = self._jobs.renew(held)
            self._renewed_at = now
        else:
            ours = self._jobs.still_held(held)
        with self._lock:
            self._asked_at = now
            self._lost.update((job.id, job.fence) for job in held if job.id not in ours)
