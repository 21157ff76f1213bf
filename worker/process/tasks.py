"""Celery's entry point: a ticket becomes a turn, and the jobs of a child that died are requeued at once.

Both processes of a worker import this: the light parent, which consumes tickets and never imports torch, and its one
spawned child, which owns the device.
"""

import functools
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import Task, current_app, shared_task
from celery.signals import setup_logging, worker_process_init
from celery.worker.request import Request

from storage.broker.queues import TURN_TASK
from storage.errors import DeviceBroken, NotFound
from storage.rules.faults import Fault
from storage.settings import read_settings
from worker.process.identity import this_run
from worker.process.requeue import requeue_jobs_of

if TYPE_CHECKING:
    from worker.process.device_process import DeviceProcess

log = logging.getLogger(__name__)

#: Sent by the parent to the child: finish the batch in hand and claim no more. (Celery's pool uses SIGUSR1 itself.)
STOP_SIGNAL = signal.SIGUSR2


class TurnRequest(Request):  # type: ignore[misc]
    """A ticket that the child is working on, as the parent sees it."""

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Requeue the jobs of a child that died before the next child can take a ticket."""
        error = exc_info.exception
        if isinstance(getattr(error, "exc", error), WorkerLostError):  # billiard wraps it with its traceback
            requeue_jobs_of(str(self.hostname), run=this_run(), because=Fault.WORKER_DIED)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


class TurnTask(Task):  # type: ignore[misc]
    Request = TurnRequest


@shared_task(name=TURN_TASK, base=TurnTask)
def turn(alias: str) -> None:
    """Serve a model for a while. Late, duplicate and forged tickets do no harm."""
    process = device_process()
    try:
        model = process.me.registry[alias]
    except NotFound as error:
        log.warning("ticket ignored", extra={"error": error})
        return
    try:
        process.turn.run(model)
    except DeviceBroken as error:
        log.error("device broken, its process ends", extra={"device": process.me.device, "error": error})
        process.leave()


@functools.cache
def device_process() -> "DeviceProcess":
    """Return what the child holds, made once: connections, loaded models, threads."""
    # Loaded here: the parent imports this module too, and needs none of what the child is made of.
    from worker.process.device_process import DeviceProcess

    return DeviceProcess(read_settings(), app=current_app, stopping=stop_request())


@functools.cache
def stop_request() -> threading.Event:
    """Return the event that is set once the child is to stop."""
    return threading.Event()


@worker_process_init.connect
def start_device_process(**_: Any) -> None:
    # Before anything that takes long: a signal that nobody handles would kill the child.
    stopping = stop_request()
    signal.signal(STOP_SIGNAL, lambda *_: stopping.set())
    device_process().start()


@setup_logging.connect
def leave_logging_alone(**_: Any) -> None:
    """Keep Celery from configuring logging, which it does unless this signal is connected; the entry points do it."""
