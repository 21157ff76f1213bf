"""Hold and release the pictures of schedules as their windows shut and open, beside the clock."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scheduler.cron.acceptance import call_workers
from scheduler.cron.one_by_one import one_by_one
from scheduler.cron.plan import is_open
from scheduler.intake.submit import Intake
from storage.process.logs import LogThrottle
from storage.process.service_loop import run_until_stopped
from storage.renders.firings import Firings
from storage.renders.schedules import Schedule, Schedules


@dataclass(frozen=True, kw_only=True)
class WindowKeeper:
    """Any number of processes may do this at once: every move is idempotent."""

    schedules: Schedules
    firings: Firings
    intake: Intake
    #: Seconds since 1970; None: the database's clock.
    clock: Callable[[], float] | None = None
    _throttle: LogThrottle = field(default_factory=LogThrottle)

    def run_once(self, *, long: bool) -> None:
        """Release renders whose window has opened, and hold the rest of those whose window has shut.

        Args:
            long: the long ones, which take minutes; or the others, which do not wait for them.

        Raises ServiceProblem; what was done stays done.
        """
        now = self.schedules.now() if self.clock is None else self.clock()
        released: list[str] = []

        def keep(schedule: Schedule) -> None:
            released.extend(self._keep(schedule, now, long=long))

        one_by_one(self.schedules.all(), keep, self._throttle)
        if released:
            # Once for all of them: a broker that hangs holds up no window. If this fails, the sweep does it.
            call_workers(self.intake)

    def run(self, stopping: threading.Event, *, every_seconds: float, long: bool) -> None:
        """Keep windows until asked to stop; a service that is away is waited for."""
        run_until_stopped(
            lambda: self.run_once(long=long), doing="keep windows", every_seconds=every_seconds, stopping=stopping
        )

    def _keep(self, schedule: Schedule, now: float, *, long: bool) -> Iterator[str]:
        """Yield the renders that were released."""
        plan = schedule.plan
        if plan.window is None:
            return
        opened = is_open(plan.window, plan.timezone, now)
        for render_id in self.firings.out_of_step(schedule, window_open=opened, long=long):
            if opened:
                self.intake.jobs.release(render_id)
                yield render_id
            else:
                self.intake.jobs.hold(render_id)
            self.firings.note_window(render_id, window_open=opened)
