"""Keeping the leases of the jobs in hand, beside the thread that drives the device."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from storage.errors import DatabaseProblem
from storage.jobs.values import ClaimedJob
from worker.serving.services import LeasedJobs
from worker.serving.watchdog import Watchdog

log = logging.getLogger(__name__)

#: How often to ask whether jobs in hand were cancelled; and those that somebody follows over the API.
_WATCH_SECONDS = 1.0
_WATCH_CLOSELY_SECONDS = 0.1
_LOG_EVERY_SECONDS = 60.0


class Leases:
    """Renews leases, as long as the device shows progress, and knows which jobs are no longer ours.

    A device that its watchdog gives up has its leases left to run out: a hung kernel must not keep its jobs. Pictures
    that are waiting to be stored are renewed in any case.
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
            on_stall: told once, from the thread that renews, which jobs the device hangs with.
        """
        self._jobs = jobs
        self._renew_seconds = renew_seconds
        self._watchdog = watchdog
        self._on_stall = on_stall
        self._lock = threading.Lock()
        self._rendering: dict[int, ClaimedJob] = {}
        self._publishing: dict[int, ClaimedJob] = {}
        self._lost: set[tuple[int, int]] = set()
        self._renewed_at = time.monotonic()
        self._told_of_stall = False

    def start(self) -> None:
        threading.Thread(target=self._keep, name="leases", daemon=True).start()

    def add(self, jobs: Iterable[ClaimedJob]) -> None:
        """These jobs were just claimed and go to the device."""
        with self._lock:
            self._rendering.update({job.id: job for job in jobs})

    def rendered(self, jobs: Iterable[ClaimedJob]) -> None:
        """These jobs left the device and are being published."""
        with self._lock:
            for job in jobs:
                if self._rendering.pop(job.id, None) is not None:
                    self._publishing[job.id] = job

    def drop(self, jobs: Iterable[ClaimedJob]) -> None:
        """These jobs came to their end, here or elsewhere."""
        with self._lock:
            for job in jobs:
                self._rendering.pop(job.id, None)
                self._publishing.pop(job.id, None)
                self._lost.discard((job.id, job.fence))

    def at_the_device(self, jobs: Iterable[ClaimedJob]) -> list[ClaimedJob]:
        """Those of these jobs that were neither rendered nor released."""
        with self._lock:
            return [job for job in jobs if job.id in self._rendering]

    def until_published(self, seconds: float) -> None:
        """Wait until all pictures that left the device are stored, but no longer than that."""
        deadline = time.monotonic() + seconds
        while self._publishing and time.monotonic() < deadline:
            time.sleep(0.05)

    def all_lost(self, jobs: Iterable[ClaimedJob]) -> bool:
        """True if none of these jobs is ours any more: rendering on would be for nobody."""
        with self._lock:
            return all((job.id, job.fence) in self._lost for job in jobs)

    def _keep(self) -> None:
        logged_at = float("-inf")
        while True:
            with self._lock:
                closely = any(job.watched for job in self._rendering.values())
            time.sleep(_WATCH_CLOSELY_SECONDS if closely else _WATCH_SECONDS)
            try:
                self._keep_once()
            except DatabaseProblem as error:
                # The next round tries again; until then the leases run, and a lapsed one that nobody took is ours.
                if time.monotonic() - logged_at >= _LOG_EVERY_SECONDS:
                    log.warning("leases not renewed: %s", error)
                    logged_at = time.monotonic()

    def _keep_once(self) -> None:
        now = time.monotonic()
        stalled = self._watchdog.stalled()
        with self._lock:
            rendering = tuple(self._rendering.values())
            held = [*self._publishing.values(), *(() if stalled else rendering)]
        if stalled and rendering and not self._told_of_stall:
            self._told_of_stall = True
            self._on_stall(rendering)
        if not held:
            return
        if now - self._renewed_at >= self._renew_seconds:
            ours = self._jobs.renew(held)
            self._renewed_at = now
        else:
            ours = self._jobs.still_held(held)
        with self._lock:
            self._lost.update((job.id, job.fence) for job in held if job.id not in ours)
