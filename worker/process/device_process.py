"""The process that owns one device: what it is made of, and how it starts."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from celery import Celery

from storage.broker import Tickets
from storage.database.connection import Database
from storage.errors import DatabaseProblem
from storage.fleet.fault_log import FaultLog
from storage.fleet.memory_limits import MemoryLimits
from storage.fleet.workers import Workers
from storage.jobs.jobs import Jobs
from storage.jobs.values import ClaimedJob
from storage.objects.s3 import open_objects
from storage.process.logs import configure_logging
from storage.rules.faults import Fault
from storage.settings import Settings
from storage.spec.registry import read_registry
from worker.devices import find_devices
from worker.process.identity import machine_name, served_models
from worker.rendering.backend import Supplies, hardware_name, import_kind
from worker.rendering.input_cache import Inputs
from worker.serving.batch import WorkerContext
from worker.serving.batch_limits import BatchLimits
from worker.serving.heartbeat import Heartbeat
from worker.serving.leases import Leases
from worker.serving.model_cache import ModelCache
from worker.serving.outages import OutageRetry
from worker.serving.publish import Publisher
from worker.serving.turn import Turn
from worker.serving.watchdog import Watchdog

log = logging.getLogger(__name__)

R = TypeVar("R")


#: BSD's EX_TEMPFAIL: try again, with a fresh process.
_EXIT_CODE = 75
#: How long pictures that were made before a device hung may take to be stored.
_LAST_SECONDS = 10.0


class DeviceProcess:
    """Wires a turn together; `start` runs the threads beside it."""

    def __init__(self, settings: Settings, *, app: Celery, stopping: threading.Event) -> None:
        [self.device] = find_devices(settings.devices)
        self.stopping = stopping
        self.registry = read_registry(settings)
        self._home = settings.home.absolute()
        self._name = self.device.worker_name(machine_name(settings))
        self._served = served_models(settings, self.registry, self.device)
        configure_logging(settings.log_level, self._name)
        database = Database(settings.database)
        objects = open_objects(settings)
        faults = FaultLog(database)
        self._jobs = Jobs(database, settings.retry_policy)
        self._workers = Workers(database)
        self._heartbeat = Heartbeat(
            self._workers, faults, name=self._name, seconds=settings.renew_seconds, announce=self._announce
        )
        patiently = OutageRetry(stopping, self._heartbeat)
        self._watchdog = Watchdog(stall_seconds=settings.stall_seconds)

        def waiting(action: Callable[[], R], /, *, what: str) -> R:
            with self._watchdog.waiting():
                return patiently(action, what=what)

        self._leases = Leases(
            self._jobs, renew_seconds=settings.renew_seconds, watchdog=self._watchdog, on_stall=self._give_up
        )
        self.turn = Turn(
            context=WorkerContext(
                worker=self._name,
                jobs=self._jobs,
                leases=self._leases,
                watchdog=self._watchdog,
                memory=BatchLimits(MemoryLimits(database), device_name=hardware_name(self.device), patiently=patiently),
                publisher=Publisher(jobs=self._jobs, objects=objects, leases=self._leases, patiently=patiently),
                heartbeat=self._heartbeat,
                patiently=patiently,
            ),
            served=self._served,
            turn_seconds=settings.turn_seconds,
            load_seconds=settings.load_seconds,
            tickets=Tickets(settings, app),
            faults=faults,
            loaded=ModelCache(
                self.device,
                Supplies(inputs=Inputs(objects, patiently=waiting), loras=self.registry.loras, home=self._home),
                most=settings.loaded_models,
            ),
            stopping=stopping,
        )

    def start(self) -> None:
        """Import what the served models need, then tell everyone that this worker is there."""
        # Read by torch when it compiles: what one worker compiled, the next one finds.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._home / "inductor"))
        for kind in {self.registry[alias].kind for alias in self._served}:
            import_kind(kind)
        self._leases.start()
        self._heartbeat.start()
        log.info("ready device=%s pid=%d models=%s", self.device, os.getpid(), ",".join(self._served))

    def leave(self) -> NoReturn:
        """End this process, whose device does not answer or answers wrong, for a fresh one to take its place."""
        logging.shutdown()
        # No clean-up: it would call the device.
        os._exit(_EXIT_CODE)

    def _give_up(self, hanging: Sequence[ClaimedJob]) -> None:
        """The device hangs: give its jobs back, and end, which nothing but the end of the process does to a kernel."""
        seconds = self._watchdog.silent_for()
        log.error("device=%s has been silent for %.0f s and is given up", self.device, seconds)
        try:
            self._jobs.recover(hanging, Fault.TIMEOUT, f"no step for {seconds:.0f} s")
        except DatabaseProblem as error:
            log.warning("jobs are left to their leases: %s", error)
        self._leases.until_published(_LAST_SECONDS)
        self.leave()

    def _announce(self) -> None:
        self._workers.announce(
            name=self._name,
            host=socket.gethostname(),
            device=str(self.device),
            device_name=hardware_name(self.device),
            pid=os.getpid(),
            models=self._served,
        )
