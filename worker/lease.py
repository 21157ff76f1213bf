"""Keeping the leases of the jobs in hand, beside the thread that drives the device."""

import logging
import threading
import time
from collections.abc import Iterable

from storage.claims import Claimed
from storage.errors import DatabaseProblem
from storage.jobs import Jobs

log = logging.getLogger(__name__)

#: How often to ask whether jobs in hand were cancelled.
_WATCH_SECONDS = 1.0


class Leases:
    """Renews leases, as long as the device shows progress, and knows which jobs are no longer ours.

    A device that reports no step for `stall_seconds` has its leases left to run out: a hung kernel must not keep
    its jobs. Pictures that are waiting to be stored are renewed in any case.
    """

    def __init__(self, jobs: Jobs, *, renew_seconds: float, stall_seconds: float) -> None:
        self._jobs = jobs
        self._renew_seconds = renew_seconds
        self._stall_seconds = stall_seconds
        #: How long the device may now be silent.
        self._patience = stall_seconds
        self._lock = threading.Lock()
        self._rendering: dict[int, Claimed] = {}
        self._publishing: dict[int, Claimed] = {}
        self._lost: set[tuple[int, int]] = set()
        self._progress_at = time.monotonic()
        self._renewed_at = time.monotonic()

    def start(self) -> None:
        threading.Thread(target=self._keep, name="leases", daemon=True).start()

    def hold(self, jobs: Iterable[Claimed]) -> None:
        """These jobs were just claimed and go to the device."""
        self.progress()
        with self._lock:
            self._rendering.update({job.id: job for job in jobs})

    def rendered(self, jobs: Iterable[Claimed]) -> None:
        """These jobs left the device and are being published."""
        with self._lock:
            for job in jobs:
                if self._rendering.pop(job.id, None) is not None:
                    self._publishing[job.id] = job

    def release(self, jobs: Iterable[Claimed]) -> None:
        """These jobs came to their end, here or elsewhere."""
        with self._lock:
            for job in jobs:
                self._rendering.pop(job.id, None)
                self._publishing.pop(job.id, None)
                self._lost.discard((job.id, job.fence))

    def progress(self) -> None:
        """The device did something, and should again within `stall_seconds`."""
        self._patience = self._stall_seconds
        self._progress_at = time.monotonic()

    def expect_silence(self, seconds: float) -> None:
        """What begins now (loading a model) reports no steps and may take this long."""
        self._patience = seconds
        self._progress_at = time.monotonic()

    def all_lost(self, jobs: Iterable[Claimed]) -> bool:
        """True if none of these jobs is ours any more: rendering on would be for nobody."""
        with self._lock:
            return all((job.id, job.fence) in self._lost for job in jobs)

    def _keep(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            try:
                self._keep_once()
            except DatabaseProblem as error:
                # The next round tries again; until then the leases run, and a lapsed one that nobody took is ours.
                log.warning("leases not renewed: %s", error)
                time.sleep(self._renew_seconds / 2)

    def _keep_once(self) -> None:
        now = time.monotonic()
        with self._lock:
            stalled = now - self._progress_at > self._patience
            held = [*self._publishing.values(), *(() if stalled else self._rendering.values())]
        if not held:
            return
        if now - self._renewed_at >= self._renew_seconds:
            ours = self._jobs.renew(held)
            self._renewed_at = now
        else:
            ours = self._jobs.still_held(held)
        with self._lock:
            self._lost.update((job.id, job.fence) for job in held if job.id not in ours)
