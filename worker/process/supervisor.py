"""`farm-worker`: starts one Celery worker per device, restarts those that die, and stops them cleanly.

The first SIGTERM or Ctrl-C lets every worker finish and store its running batch. A second one, or the end of the grace
period, kills the workers; their jobs are requeued, and this does not count as an attempt.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial

import click

from storage.database.connection import Database
from storage.errors import BadSettings, DatabaseProblem, FarmError, InvalidInput
from storage.fleet.workers import Workers
from storage.process import lifeline
from storage.process.keeper import Keeper
from storage.process.logs import configure_logging
from storage.process.run_id import run_id
from storage.rules.faults import Fault
from storage.settings import Settings, misspelt_settings, read_settings
from storage.spec.last_registry import keep_registry
from storage.spec.registry import Registry, read_registry
from storage.spec.registry_watch import RegistryWatch
from worker.devices import Device
from worker.process.cpu_share import CpuShare, serves_large, share_cpu
from worker.process.identity import CALL, RUN, machine_name, served_models
from worker.process.requeue import requeue_jobs_of
from worker.process.reserves import Reserves
from worker.process.start import wait_for_names, wait_for_services

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


@dataclass
class Supervisor:
    """Keeps one worker process per device running until asked to stop; of a CPU's several, all but one when called."""

    settings: Settings
    devices: list[Device]
    cpu: CpuShare
    _run: str = field(default_factory=run_id)
    _stop_requests: int = 0
    _woken: threading.Event = field(default_factory=threading.Event)
    _reserves: Reserves = field(default_factory=Reserves)
    #: Set once the CPU is to be shared out in another way.
    _to_share: bool = False

    def __post_init__(self) -> None:
        self._registry = read_registry(self.settings)
        keep_registry(self.settings)
        self._watch = RegistryWatch(self.settings, self._registry, check=self._check, changed=self._registry_edited)

    def run(self) -> None:
        """Return when every worker has ended after a request to stop.

        Raises InvalidInput, once all have ended, if one of them cannot start with these settings, and ServiceProblem
        if a service is there and unfit.
        """
        while True:
            self._to_share = False
            with contextlib.closing(self._reserves):
                self._keep_running()
            if self._stop_requests:
                return
            self.devices, self.cpu = share_cpu(self.settings, self._registry)
            self._reserves = Reserves()

    def _check(self, registry: Registry) -> None:
        for device in self.devices:
            served_models(self.settings, registry, device)

    def _registry_edited(self) -> None:
        """Keep what is right now for workers that start again; share the CPU out anew if other sizes are served."""
        keep_registry(self.settings)
        if self.cpu.for_large is None or self.cpu.for_large == serves_large(self.settings, self._registry):
            return
        log.info("other models are served: workers start again, after their batches, and share the CPU in another way")
        self._to_share = True

    def _keep_running(self) -> None:
        keepers = {device: self._keeper(device) for device in self.devices}
        workers = [keeper for device, keeper in keepers.items() if device not in self.cpu.reserves]
        self._reserves.keep([keepers[device] for device in self.cpu.reserves], running=1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        wait_for_services(self.settings, stopping=self._woken)
        wait_for_names([worker.name for worker in keepers.values()], self.settings, run=self._run, stopping=self._woken)
        try:
            while not (self._stop_requests or self._to_share):
                for worker in workers:
                    worker.tend()
                workers += self._reserves.called()
                self._watch.look()
                self._woken.wait(_POLL_SECONDS)
        finally:
            self._stop([worker for worker in workers if worker.pid is not None])

    def _keeper(self, device: Device) -> Keeper:
        name = device.worker_name(machine_name(self.settings))
        threads = self.cpu.environment(device) | {CALL: str(self._reserves.file) if self.cpu.reserves else ""}
        return Keeper(
            name,
            [sys.executable, "-m", "worker.process.parent"],
            environment=os.environ | device.environment() | threads | {RUN: self._run},
            on_death=partial(requeue_jobs_of, name, run=self._run, because=Fault.WORKER_DIED),
        )

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_requests += 1
        self._woken.set()

    def _stop(self, running: list[Keeper]) -> None:
        log.info(
            "stopping after running batches; stop again to requeue those",
            extra={"workers": len(running)},
        )
        for worker in running:
            worker.ask_to_stop()
        deadline = time.monotonic() + self.settings.grace_seconds
        while any(worker.alive for worker in running) and self._stop_requests < 2 and time.monotonic() < deadline:
            self._woken.clear()
            self._woken.wait(_POLL_SECONDS / 5)
        for worker in running:
            if worker.alive:
                log.warning("worker did not stop in time: killed, its jobs are requeued", extra={"worker": worker.name})
                worker.kill()
            # After a clean end too: pictures that could not be stored are rendered again elsewhere.
            requeue_jobs_of(worker.name, run=self._run)
        self._forget(running)

    def _forget(self, stopped: list[Keeper]) -> None:
        database = Database(self.settings.database)
        try:
            for worker in stopped:
                Workers(database, run=self._run).forget(worker.name)
        except DatabaseProblem as error:
            log.warning("workers could not be signed off", extra={"error": error})
        finally:
            database.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", metavar="LIST", help="auto, or a list such as cuda:0,cuda:1 (FARM_DEVICES).")
@click.option("--simulated", type=click.IntRange(1, 64), metavar="N", help="N simulated devices instead of real ones.")
@click.option("--serve", metavar="ALIASES", help="Comma-separated models to serve (FARM_SERVE; default: all).")
@click.option("--stop-with-parent", is_flag=True, hidden=True)
def main(devices: str | None, simulated: int | None, serve: str | None, stop_with_parent: bool) -> None:
    """Render jobs on this machine's devices, one worker per device, until SIGTERM or Ctrl-C."""
    if simulated:
        devices = ",".join(f"simulated:{index}" for index in range(simulated))
    for name, value in {"FARM_DEVICES": devices, "FARM_SERVE": serve}.items():
        if value is not None:
            # Workers read the same settings, from the environment they inherit.
            os.environ[name] = value
    try:
        settings = read_settings()
        configure_logging(settings, "farm-worker")
        for warning in misspelt_settings():
            log.warning(warning)
        if stop_with_parent:
            lifeline.stop_with_parent()
        ready, cpu = _ready_devices(settings)
        Supervisor(settings=settings, devices=ready, cpu=cpu).run()
    except FarmError as error:
        click.echo(f"farm-worker: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidInput) else 3)


def _ready_devices(settings: Settings) -> tuple[list[Device], CpuShare]:
    """Return the devices to serve, after checking all settings that a worker needs. Raises FarmError."""
    registry = read_registry(settings)
    devices, cpu = share_cpu(settings, registry)
    for device in devices:
        served_models(settings, registry, device)
    if settings.broker_url is None:
        raise BadSettings("FARM_BROKER_URL is not set: name a Redis server, or use `farm up`, which starts one")
    return devices, cpu


if __name__ == "__main__":
    main()
