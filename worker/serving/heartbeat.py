"""The worker's own row: who it is, what it is doing, and that it is alive."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from storage.errors import DatabaseProblem, ServiceProblem, WorkerNameTaken
from storage.fleet.fault_log import FaultLog
from storage.fleet.slots import SlotCounts
from storage.fleet.workers import JobProgress, WorkerActivity, Workers
from storage.jobs.values import ClaimedJob
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)

_RATE_SECONDS = 60.0
_MIN_SECONDS_BETWEEN_WRITES = 0.4


class Heartbeat:
    """Writes the row every few seconds, and at once when something changes; hears what the worker is waiting for."""

    def __init__(
        self,
        workers: Workers,
        faults: FaultLog,
        *,
        name: str,
        seconds: float,
        announce: Callable[[], None],
        on_name_taken: Callable[[WorkerNameTaken], None],
    ) -> None:
        """
        Args:
            announce: adds the worker's row.
            on_name_taken: called once, on the beating thread, if another worker has the name by now: this one was
                silent for so long that it counted as dead.
        """
        self._workers = workers
        self._faults = faults
        self._name = name
        self._seconds = seconds
        self._announce = announce
        self._on_name_taken = on_name_taken
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._state = "idle"
        self._model: str | None = None
        self._batch = 0
        self._pictures = 0
        self._threads: int | None = None
        self._rate = PictureRate()
        self._slots: SlotCounts | None = None
        self._loaded: tuple[str, ...] = ()
        #: How many pictures a call may have at most, and why; None: there was no call yet.
        self._limit: tuple[int, str] | None = None
        #: How far the jobs at the device are that somebody follows; None: nobody follows any.
        self._progress: tuple[JobProgress, ...] | None = None
        self._written_progress: tuple[JobProgress, ...] | None = None
        #: What it is waiting to do → the problem with that.
        self._trouble: dict[str, ServiceProblem] = {}
        #: Outages that are not in the fault log yet.
        self._outages: list[ServiceProblem] = []

    def start(self) -> None:
        """Announce this worker, now or when the database is back, and go on beating.

        Raises WorkerNameTaken if another worker has its name.
        """
        try:
            self._announce()
        except DatabaseProblem as error:
            log.warning("heartbeat not sent", extra={"error": error})
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def now(self, *, state: str, model: str | None = None, batch: int = 0) -> None:
        """Note a change of state; the row follows shortly, without making the caller wait."""
        after = (state, model or self._model, batch)
        if after != (self._state, self._model, self._batch):
            self._state, self._model, self._batch = after
            self._changed.set()

    def rendered(self, pictures: int) -> None:
        """Count pictures that were rendered."""
        self._pictures += pictures
        self._rate.add(pictures, at=time.monotonic())

    def rendered_by(self, threads: int | None) -> None:
        """Note by how many threads of a CPU the last batch was rendered; None: on another device."""
        self._threads = threads

    def limited(self, pictures: int, reason: str) -> None:
        """Note how many pictures a call may have at most, and why."""
        self._limit = (pictures, str(reason))

    def denoised(self, slots: SlotCounts | None) -> None:
        """Note what the slots do."""
        self._slots = slots

    def holds(self, models: Iterable[str]) -> None:
        """Note which models are in memory, by alias, the one used last at the end."""
        self._loaded = tuple(models)

    def step(self, steps: Iterable[tuple[ClaimedJob, int, int]]) -> None:
        """Note how many steps of each job are done, and of how many; followers hear of it at most twice a second."""
        watched = tuple(JobProgress(job.id, done, of) for job, done, of in steps if job.watched)
        if watched:
            self._progress = watched
            self._changed.set()

    def waits_for(self, what: str, problem: ServiceProblem) -> None:
        """Show in the row what the worker is waiting for; note the first wait of an outage in the fault log."""
        with self._lock:
            if not any(known.fault is problem.fault for known in self._trouble.values()):
                self._outages.append(problem)
            self._trouble[what] = problem
        self._changed.set()

    def waits_no_more(self, what: str) -> None:
        """Take it out of the row."""
        with self._lock:
            self._trouble.pop(what, None)
        self._changed.set()

    def _beat(self) -> None:
        throttle = LogThrottle()
        while True:
            try:
                self._write()
            except WorkerNameTaken as error:
                self._on_name_taken(error)
                return
            except DatabaseProblem as error:
                if throttle.passes():
                    log.warning("heartbeat not sent", extra={"error": error})
            self._changed.wait(self._seconds)
            self._changed.clear()
            time.sleep(_MIN_SECONDS_BETWEEN_WRITES)  # several changes in a row become one write

    def _write(self) -> None:
        with self._lock:
            trouble = "; ".join(f"cannot {what}: {problem}" for what, problem in self._trouble.items())
            outages = list(self._outages)
        limit = self._limit
        activity = WorkerActivity(
            state=self._state,
            model=self._model,
            batch=self._batch,
            pictures=self._pictures,
            rate=self._rate.per_second(at=time.monotonic()),
            trouble=trouble or None,
            threads=self._threads,
            slots=self._slots,
            batch_limit=None if limit is None else limit[0],
            limit_reason=None if limit is None else limit[1],
            loaded=self._loaded,
        )
        if not self._workers.beat(self._name, activity):
            # The first one after an outage, or the row was lost.
            self._announce()
            self._workers.beat(self._name, activity)
        if self._progress is not None and self._progress != self._written_progress:
            self._written_progress = self._progress
            self._workers.progress(name=self._name, jobs=self._written_progress)
        for outage in outages:
            if outage.fault is not None:
                self._faults.note_outage(fault=outage.fault, worker=self._name, message=str(outage))
            with self._lock:
                self._outages.remove(outage)


class PictureRate:
    """Pictures a second over the last minute."""

    def __init__(self) -> None:
        self._made: deque[tuple[float, int]] = deque(maxlen=1000)

    def add(self, pictures: int, *, at: float) -> None:
        self._made.append((at, pictures))

    def per_second(self, *, at: float) -> float:
        return sum(pictures for moment, pictures in list(self._made) if moment > at - _RATE_SECONDS) / _RATE_SECONDS
