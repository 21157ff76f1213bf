"""The process that owns one device: what it is made of, how it starts, and how it gives up."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from celery import Celery

from storage.broker.previews import open_previews
from storage.broker.tickets import Tickets
from storage.database.connection import Database
from storage.errors import FarmError, WorkerNameTaken
from storage.fleet.fault_log import FaultLog
from storage.fleet.learned_limits import LearnedLimits
from storage.fleet.memory_limits import MemoryLimits
from storage.fleet.workers import NewWorker, Workers
from storage.jobs.jobs import Jobs
from storage.jobs.values import ClaimedJob
from storage.objects.store import open_objects
from storage.process.garbage import spare_what_is_loaded
from storage.process.logs import configure_logging
from storage.rules.faults import Fault
from storage.settings import Settings
from storage.spec.registry import read_registry
from storage.spec.registry_watch import LiveEntries, watch_registry
from worker.process.cpu_share import learning_name
from worker.process.identity import Identity, call_file, own_threads, this_run
from worker.rendering.backend import Backend, BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backends
from worker.serving.batch import WorkerContext
from worker.serving.batch_learner import BatchLearner
from worker.serving.batch_limits import BatchLimits
from worker.serving.checked_limits import CheckedLimits
from worker.serving.claims_ahead import ClaimsAhead
from worker.serving.heartbeat import Heartbeat
from worker.serving.help_call import HelpCall
from worker.serving.leases import Leases
from worker.serving.model_cache import ModelCache
from worker.serving.outages import OutageRetry
from worker.serving.patient import (
    PatientInputs,
    PatientJobs,
    PatientLearnedLimits,
    PatientMemoryLimits,
    PatientObjects,
    PatientQuarantines,
)
from worker.serving.previews import PreviewMaker
from worker.serving.publish import Publisher
from worker.serving.thread_choice import ThreadChoice
from worker.serving.turn import Turn
from worker.serving.watchdog import Watchdog

log = logging.getLogger(__name__)

#: BSD's EX_TEMPFAIL: try again, with a fresh process.
_EXIT_CODE = 75
#: To the database: one for a claim that waits, one for everything else, each of it short.
_CONNECTIONS = 2
#: Of a worker's start: two interpreters and Celery; then what this process takes to import and connect, PyTorch most of
#: it, at least so long.
_BEFORE_SECONDS, _LEAST_SECONDS = 2.0, 3.0
#: How long to go on storing finished pictures after the device hung.
_LAST_SECONDS = 10.0


class DeviceProcess:
    """Everything that a device process holds, made once; `turn` serves tickets, `start` runs the threads beside it."""

    def __init__(self, settings: Settings, *, app: Celery, stopping: threading.Event) -> None:
        began = time.process_time()
        self.me = Identity.of(settings)
        configure_logging(settings, self.me.name)

        database, objects = Database(settings.database, connections=_CONNECTIONS), open_objects(settings)
        self._jobs = Jobs(database, settings.retry_policy)
        self._workers = Workers(database, run=this_run())
        faults = FaultLog(database)
        self._heartbeat = self._make_heartbeat(faults)
        self._watchdog = Watchdog(stall_seconds=settings.stall_seconds)
        self._leases = Leases(
            self._jobs, renew_seconds=settings.renew_seconds, watchdog=self._watchdog, on_stall=self._give_up
        )

        self._previews = PreviewMaker(open_previews(settings))

        # Beats and leases have rounds of their own and skip one while the database is away. All else waits.
        retry = OutageRetry(stopping, self._heartbeat)
        jobs = PatientJobs(self._jobs, retry)

        backends = self._open_backends(settings, InputCache(PatientInputs(objects, retry, self._watchdog)))
        self._hardware = _hardware_name(backends)
        self.turn = Turn(
            context=WorkerContext(
                worker=self.me.name,
                jobs=jobs,
                leases=self._leases,
                watchdog=self._watchdog,
                batch_limits=self._batch_limits(database, retry),
                threads=ThreadChoice(own_threads()),
                publisher=Publisher(jobs=jobs, objects=PatientObjects(objects, retry), leases=self._leases),
                heartbeat=self._heartbeat,
                previews=self._previews,
            ),
            served=self.me.served,
            turn_seconds=settings.turn_seconds,
            load_seconds=settings.load_seconds,
            tickets=Tickets(settings, app),
            quarantines=PatientQuarantines(faults, retry),
            models=ModelCache(backends, capacity=settings.loaded_models, loras=self.me.registry.loras),
            ahead=ClaimsAhead(jobs, worker=self.me.name, served=self.me.served),
            help=HelpCall(jobs, call_file(), start_seconds=_start_seconds(began)),
            stopping=stopping,
            is_current=lambda model: self.me.registry.models.get(model.alias) == model,
        )

    def _make_heartbeat(self, faults: FaultLog) -> Heartbeat:
        return Heartbeat(
            self._workers,
            faults,
            name=self.me.name,
            seconds=self.me.settings.renew_seconds,
            announce=self._announce,
            on_name_taken=self._yield_name,
        )

    def _batch_limits(self, database: Database, retry: OutageRetry) -> BatchLimits:
        hardware = learning_name(self.me.device, self._hardware)
        return BatchLimits(
            PatientMemoryLimits(MemoryLimits(database), retry),
            device_name=self._hardware,
            learner=BatchLearner(
                PatientLearnedLimits(LearnedLimits(database), retry),
                device_name=hardware,
                tries_threads=(own_threads() or 1) > 1,
                checked=CheckedLimits(self.me.registry.checks).of,
            ),
            workers=lambda model: retry(lambda: len(self._workers.serving(model)), what="look for other workers"),
        )

    def _open_backends(self, settings: Settings, inputs: InputCache) -> Mapping[str, Backend]:
        registry = self.me.registry
        resources = BackendResources(
            inputs=inputs,
            loras=LiveEntries(lambda: registry.loras, lambda: read_registry(settings).loras),
            embeddings=LiveEntries(lambda: registry.embeddings),
            home=settings.home.absolute(),
        )
        return open_backends(self.me.kinds, self.me.device, resources)

    def _serve_edited(self) -> None:
        """Have it known which models this worker serves from now on. Raises DatabaseProblem."""
        self.turn.models.forget_changed_loras(self.me.registry.loras)
        self._workers.set_models(self.me.name, self.me.served)

    def start(self) -> None:
        """Start to renew leases and to beat, which announces this worker."""
        spare_what_is_loaded()
        self._leases.start()
        self._previews.start()
        try:
            self._heartbeat.start()
        except WorkerNameTaken as error:
            self._yield_name(error)
        watch_registry(
            *(self.me.settings, self.me.registry, self.turn.stopping),
            check=self.me.check_served,
            changed=self._serve_edited,
        )
        log.info("ready", extra={"device": self.me.device, "pid": os.getpid(), "models": ",".join(self.me.served)})

    def _yield_name(self, error: WorkerNameTaken) -> NoReturn:
        """End this worker, parent and all; the supervisor starts it again later, each time after a longer pause."""
        log.error("another worker has this one's name", extra={"error": error})
        os.kill(os.getppid(), signal.SIGTERM)
        self.leave()

    def leave(self) -> NoReturn:
        """End this process, whose device hangs or is broken, for a fresh one to take its place."""
        logging.shutdown()
        # No clean-up: it would call the device.
        os._exit(_EXIT_CODE)

    def _give_up(self, hanging: Sequence[ClaimedJob]) -> None:
        """Give back the jobs that the device hangs with, and end: only the end of its process stops a kernel."""
        seconds = self._watchdog.silent_for()
        log.error("device hangs, its process ends", extra={"device": self.me.device, "silent_seconds": seconds})
        try:
            self._jobs.recover(hanging, Fault.TIMEOUT, f"no step for {seconds:.0f} s")
            # Before the parent finds them left behind, and counts an attempt: also what was claimed and not taken yet.
            found = self.turn.ahead.answer()
            late = () if found is None or found.claim is None else found.claim.jobs
            self._jobs.give_back([*self._leases.ahead(), *late])
        except FarmError as error:
            log.warning("the jobs in hand return when their leases expire", extra={"error": error})
        self._leases.until_published(_LAST_SECONDS)
        self.leave()

    def _announce(self) -> None:
        worker = NewWorker(
            name=self.me.name,
            host=socket.gethostname(),
            device=str(self.me.device),
            device_name=self._hardware,
            pid=os.getpid(),
            models=list(self.me.served),
        )
        self._workers.announce(worker)


def _hardware_name(backends: Mapping[str, Backend]) -> str:
    """Ask the first backend: it is the one that knows the hardware best."""
    return next(iter(backends.values())).hardware_name()


def _start_seconds(began: float) -> float:
    """Return how long a worker takes to start on this machine, from the processor's time that this one took.

    It may have waited: for a disk from which the next one need not read PyTorch again, or for all else that started
    with it.
    """
    return _BEFORE_SECONDS + max(_LEAST_SECONDS, time.process_time() - began)
