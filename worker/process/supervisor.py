"""`farm-worker`: starts one Celery worker per device, restarts what dies, stops them cleanly.

Stopping: the first SIGTERM or Ctrl-C lets every worker finish and store its running batch. A second one, or the end
of the grace period, kills the workers and gives their jobs back to the queue without burning an attempt.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import click

from storage.broker.tickets import Tickets
from storage.database import schema
from storage.database.connection import Database
from storage.errors import BadSettings, DatabaseProblem, FarmError, InvalidInput
from storage.fleet.workers import Workers
from storage.process import lifeline
from storage.process.logs import configure_logging
from storage.rules.faults import Fault
from storage.settings import Settings, read_settings
from storage.spec.registry import read_registry
from worker.devices import Device, find_devices
from worker.process.identity import machine_name, served_models
from worker.process.tasks import requeue_jobs_of

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
#: A worker that lived this long starts again at once; one that dies young waits longer each time.
_YOUNG_SECONDS = 20.0
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass
class _Seat:
    """The place of one worker: its device, its present process, and when to start the next."""

    device: Device
    name: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    pause: float = 1.0


@dataclass
class Supervisor:
    """Keeps one worker process per device running until asked to stop."""

    settings: Settings
    devices: list[Device]
    _stop_requests: int = 0
    _woken: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Returns when every worker has ended after a request to stop."""
        machine = machine_name(self.settings)
        seats = [_Seat(device=device, name=device.worker_name(machine)) for device in self.devices]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        while not self._stop_requests:
            for seat in seats:
                self._tend(seat)
            self._woken.wait(_POLL_SECONDS)
        self._stop(seats)

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_requests += 1
        self._woken.set()

    def _tend(self, seat: _Seat) -> None:
        now = time.monotonic()
        if seat.process is None:
            if now >= seat.start_at:
                self._start(seat)
            return
        code = seat.process.poll()
        if code is None:
            return
        log.error("worker=%s pid=%d died, exit code %d", seat.name, seat.process.pid, code)
        _kill_group(seat.process)
        requeue_jobs_of(seat.name, because=Fault.WORKER_DIED)
        young = now - seat.started_at < _YOUNG_SECONDS
        seat.pause = min(seat.pause * 2, _LONGEST_PAUSE_SECONDS) if young else 1.0
        seat.process, seat.start_at = None, now + (seat.pause if young else 0.0)

    def _start(self, seat: _Seat) -> None:
        environment = os.environ | seat.device.environment()
        seat.process = lifeline.start_child([sys.executable, "-m", "worker.process.parent"], env=environment)
        seat.started_at = time.monotonic()
        log.info("worker=%s started pid=%d device=%s", seat.name, seat.process.pid, seat.device)

    def _stop(self, seats: list[_Seat]) -> None:
        running = [seat for seat in seats if seat.process is not None]
        log.info("stopping workers=%d; running batches are finished (again to give them back)", len(running))
        for seat in running:
            _signal(seat, signal.SIGTERM)
        deadline = time.monotonic() + self.settings.grace_seconds
        while _any_alive(running) and self._stop_requests < 2 and time.monotonic() < deadline:
            self._woken.clear()
            self._woken.wait(_POLL_SECONDS / 5)
        for seat in running:
            if seat.process is not None and seat.process.poll() is None:
                log.warning("worker=%s is killed, its jobs go back to the queue", seat.name)
                _kill_group(seat.process)
                seat.process.wait()
            # Also after a clean end: pictures that no store took are rendered again elsewhere.
            requeue_jobs_of(seat.name)
        self._forget(running)

    def _forget(self, seats: list[_Seat]) -> None:
        database = Database(self.settings.database)
        try:
            for seat in seats:
                Workers(database).forget(seat.name)
        except DatabaseProblem as error:
            log.warning("workers not signed off: %s", error)
        finally:
            database.close()


def _signal(seat: _Seat, number: signal.Signals) -> None:
    if seat.process is not None and seat.process.poll() is None:
        seat.process.send_signal(number)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker with its child: each worker leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("process group %d is gone already", process.pid)


def _any_alive(seats: list[_Seat]) -> bool:
    return any(seat.process is not None and seat.process.poll() is None for seat in seats)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", metavar="LIST", help="auto, or a list such as cuda:0,cuda:1 (FARM_DEVICES).")
@click.option("--simulated", type=click.IntRange(1, 64), metavar="N", help="N simulated devices instead of real ones.")
@click.option("--serve", metavar="ALIASES", help="Models to serve, separated by commas (FARM_SERVE; default all).")
@click.option("--stop-with-parent", is_flag=True, hidden=True)
def main(devices: str | None, simulated: int | None, serve: str | None, stop_with_parent: bool) -> None:
    """Render jobs on this machine's devices: one worker per device, until SIGTERM or Ctrl-C."""
    if simulated:
        devices = ",".join(f"simulated:{index}" for index in range(simulated))
    for name, value in {"FARM_DEVICES": devices, "FARM_SERVE": serve}.items():
        if value is not None:
            # Workers read the same settings, from the environment they inherit.
            os.environ[name] = value
    try:
        settings = read_settings()
        configure_logging(settings.log_level, "farm-worker")
        if stop_with_parent:
            lifeline.stop_with_parent()
        supervisor = Supervisor(settings=settings, devices=_ready_devices(settings))
    except FarmError as error:
        click.echo(f"farm-worker: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidInput) else 3)
    supervisor.run()


def _ready_devices(settings: Settings) -> list[Device]:
    """The devices to serve, once everything that a worker needs was found in order. Raises FarmError."""
    registry = read_registry(settings)
    devices = find_devices(settings.devices)
    for device in devices:
        served_models(settings, registry, device)
    if settings.broker_url is None:
        raise BadSettings("FARM_BROKER_URL is not set; name a Redis server, or use `farm up`, which runs one")
    Tickets(settings).check()
    database = Database(settings.database)
    try:
        schema.check(database)
    finally:
        database.close()
    return devices


if __name__ == "__main__":
    main()
