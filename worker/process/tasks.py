"""Celery's entry: a ticket becomes a turn, and the jobs of a child that died go back at once.

Imported by both processes of a worker: the light parent, which consumes tickets and never imports torch, and its one
spawned child, which owns the device.
"""

import functools
import logging
import signal
import threading
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import Task, current_app, shared_task
from celery.signals import setup_logging, worker_process_init
from celery.worker.request import Request

from storage.broker.queues import TURN_TASK
from storage.database.connection import Database
from storage.errors import DatabaseProblem, DeviceBroken, NotFound
from storage.jobs.jobs import Jobs
from storage.rules.faults import Fault
from storage.settings import read_settings
from worker.process.device_process import DeviceProcess

log = logging.getLogger(__name__)

#: The parent sends it to the child: finish the batch in hand, claim no other. (Celery's pool uses SIGUSR1 itself.)
STOP_SIGNAL = signal.SIGUSR2


class TurnRequest(Request):  # type: ignore[misc]
    """In the parent: a ticket on its way through the child."""

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Give the jobs of a child that died back before the next child can take a ticket."""
        error = exc_info.exception
        if isinstance(getattr(error, "exc", error), WorkerLostError):  # billiard wraps it with its traceback
            requeue_jobs_of(str(self.hostname), because=Fault.WORKER_DIED)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


class TurnTask(Task):  # type: ignore[misc]
    Request = TurnRequest


@shared_task(name=TURN_TASK, base=TurnTask)
def turn(alias: str) -> None:
    """One ticket: serve a model for a while. Late, doubled or forged tickets do no harm."""
    process = device_process()
    try:
        model = process.me.registry[alias]
    except NotFound as error:
        log.warning("ticket ignored: %s", error)
        return
    try:
        process.turn.run(model)
    except DeviceBroken as error:
        log.error("device=%s is broken, its process ends: %s", process.me.device, error)
        process.leave()


@functools.cache
def device_process() -> DeviceProcess:
    """What the child holds, made once: connections, loaded models, threads."""
    return DeviceProcess(read_settings(), app=current_app, stopping=stop_request())


@functools.cache
def stop_request() -> threading.Event:
    """What the child finds set once it is to stop."""
    return threading.Event()


@worker_process_init.connect
def start_device_process(**_: Any) -> None:
    # Before anything that takes long: a signal that nobody handles would kill the child.
    stopping = stop_request()
    signal.signal(STOP_SIGNAL, lambda *_: stopping.set())
    device_process().start()


@setup_logging.connect
def leave_logging_alone(**_: Any) -> None:
    """Celery sets up logging unless somebody listens here; ours is set up in the entry points."""


def requeue_jobs_of(worker: str, *, because: Fault | None = None) -> None:
    """Return what a worker holds to the queue: because of a fault, or as it was told to stop.

    Without a database its leases run out instead.
    """
    settings = read_settings()
    database = Database(settings.database)
    jobs = Jobs(database, settings.retry_policy)
    try:
        if because is None:
            returned = jobs.requeue_from_worker(worker=worker)
        else:
            returned = jobs.recover_from_worker(
                worker=worker, fault=because, message="the process died while rendering"
            )
        if returned:
            log.warning("worker=%s gave back jobs=%d", worker, returned)
    except DatabaseProblem as error:
        log.warning("worker=%s leaves its jobs to their leases: %s", worker, error)
    finally:
        database.close()
