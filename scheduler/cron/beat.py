"""Run schedules: the clock, from Celery's beat, and beside it what accepts and holds what it has taken."""

import logging
import threading
from functools import partial
from typing import Any

import celery.beat
from celery import Celery

from scheduler.cron.acceptance import acceptance_of
from scheduler.cron.acceptors import Acceptors
from scheduler.cron.firing import ScheduleRunner
from scheduler.cron.windows import WindowKeeper
from scheduler.services import Services
from storage.broker.celery_app import make_celery
from storage.broker.tickets import Tickets
from storage.errors import ServiceProblem
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)


class DatabaseScheduler(celery.beat.Scheduler):  # type: ignore[misc] # Celery has no types
    """Take what is due at each tick of beat. It sends no message: a firing is a row."""

    def __init__(self, app: Celery, *, runner: ScheduleRunner, **options: Any) -> None:
        self._runner = runner
        self._throttle = LogThrottle()
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        """Set up nothing of Celery's own: all schedules are rows."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Take what is due and return the seconds until the next tick. An unavailable database is retried."""
        try:
            return float(min(self._runner.run_once(), self.max_interval))
        except ServiceProblem as error:
            if self._throttle.passes():
                log.warning(
                    "service unavailable, retrying until it is back", extra={"action": "fire schedules", "error": error}
                )
            return float(self.max_interval)


def start_schedules(
    services: Services, tickets: Tickets, *, every_seconds: float, renew_seconds: float, stopping: threading.Event
) -> Acceptors:
    """Start the clock, and what accepts and keeps windows beside it, in daemon threads.

    To be closed when the process stops, so that others need not wait until its leases run out.
    """
    acceptance = acceptance_of(services, tickets)
    acceptors = Acceptors(acceptance, renew_seconds=renew_seconds, every_seconds=every_seconds)
    acceptors.start()
    windows = WindowKeeper(schedules=acceptance.schedules, intake=acceptance.intake)
    for long in (False, True):
        threading.Thread(
            target=windows.run,
            args=(stopping,),
            kwargs={"every_seconds": every_seconds, "long": long},
            name="windows of long renders" if long else "windows",
            daemon=True,
        ).start()
    runner = ScheduleRunner(acceptance.schedules, acceptance.firings, on_taken=acceptors.call)
    start_beat(make_celery(services.settings), runner, every_seconds=every_seconds)
    return acceptors


def start_beat(app: Celery, runner: ScheduleRunner, *, every_seconds: float) -> celery.beat.Service:
    """Start beat in a daemon thread; `stop()` ends it."""
    service = celery.beat.Service(
        app,
        # How soon it notices a new schedule.
        max_interval=every_seconds,
        scheduler_cls=partial(DatabaseScheduler, runner=runner),
        remote_control=False,
    )
    threading.Thread(target=service.start, name="beat", daemon=True).start()
    return service
