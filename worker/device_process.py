"""The process that owns one device: what it is made of, and how it starts."""

import logging
import os
import socket
import threading

from celery import Celery

from storage.broker import Tickets
from storage.database import Database
from storage.jobs import Jobs
from storage.objects import open_objects
from storage.registry import read_registry
from storage.settings import Settings
from storage.telemetry import configure_logging
from storage.workers import Workers
from worker.devices import find_devices
from worker.heartbeat import Heartbeat
from worker.inputs import Inputs
from worker.lease import Leases
from worker.loaded import Loaded
from worker.publish import Publisher
from worker.renderers import Supplies, hardware_name, import_kind
from worker.served import machine_name, served_models
from worker.turn import Turn

log = logging.getLogger(__name__)


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
        jobs = Jobs(database, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)
        objects = open_objects(settings)
        self._workers = Workers(database)
        self._leases = Leases(jobs, renew_seconds=settings.renew_seconds, stall_seconds=settings.stall_seconds)
        self._heartbeat = Heartbeat(
            self._workers, name=self._name, seconds=settings.renew_seconds, announce=self._announce
        )
        self.turn = Turn(
            worker=self._name,
            served=self._served,
            turn_seconds=settings.turn_seconds,
            load_seconds=settings.load_seconds,
            jobs=jobs,
            tickets=Tickets(settings, app),
            loaded=Loaded(
                self.device,
                Supplies(inputs=Inputs(objects, stopping=stopping), loras=self.registry.loras, home=self._home),
                most=settings.loaded_models,
            ),
            leases=self._leases,
            publisher=Publisher(jobs=jobs, objects=objects, leases=self._leases, stopping=stopping),
            heartbeat=self._heartbeat,
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

    def _announce(self) -> None:
        self._workers.announce(
            name=self._name,
            host=socket.gethostname(),
            device=str(self.device),
            device_name=hardware_name(self.device),
            pid=os.getpid(),
            models=self._served,
        )
