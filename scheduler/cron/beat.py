"""Run schedules from Celery's beat: a scheduler class whose tick runs ours."""

import logging
import threading
from functools import partial
from typing import Any

import celery.beat
from celery import Celery

from scheduler.cron.firing import ScheduleRunner
from storage.errors import ServiceProblem
from storage.process.logs import LogThrottle

log = logging.getLogger(__name__)


class DatabaseScheduler(celery.beat.Scheduler):  # type: ignore[misc] # Celery has no types
    """Fire what is due at each tick of beat. It fires by itself, since a firing is a row before it is a message."""

    def __init__(self, app: Celery, *, runner: ScheduleRunner, **options: Any) -> None:
        self._runner = runner
        self._throttle = LogThrottle()
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        """Set up nothing of Celery's own: all schedules are rows."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due and return the seconds until the next tick. An unavailable database is retried."""
        try:
            return float(min(self._runner.run_once(), self.max_interval))
        except ServiceProblem as error:
            if self._throttle.passes():
                log.warning(
                    "service unavailable, retrying until it is back", extra={"action": "fire schedules", "error": error}
                )
            return float(self.max_interval)


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
