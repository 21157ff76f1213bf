"""Hold and release the pictures of schedules as their windows shut and open, beside the clock."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scheduler.cron.acceptance import call_workers
from scheduler.cron.one_by_one import one_by_one
from scheduler.intake.moments import is_open
from scheduler.intake.submit import Intake
from scheduler.intake.times import may_render
from storage.errors import InvalidInput
from storage.process.logs import LogThrottle
from storage.process.service_loop import run_until_stopped
from storage.renders.schedules import Schedule, Schedules
from storage.renders.windows import TimedRender, Windows

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WindowKeeper:
    """Any number of processes may do this at once: every move is idempotent."""

    schedules: Schedules
    intake: Intake
    #: Seconds since 1970; None: the database's clock.
    clock: Callable[[], float] | None = None
    _throttle: LogThrottle = field(default_factory=LogThrottle)

    @property
    def windows(self) -> Windows:
        return Windows(self.schedules.database)

    def run_once(self, *, long: bool) -> None:
        """Release renders whose window has opened, and hold the rest of those whose window has shut.

        Args:
            long: the long ones, which take minutes; or the others, which do not wait for them.

        Raises ServiceProblem; what was done stays done.
        """
        look = self.windows.look(long=long)
        now = look.now if self.clock is None else self.clock()
        released: list[str] = []

        def keep(schedule: Schedule) -> None:
            released.extend(self._keep(schedule, now, long=long))

        one_by_one(look.schedules, keep, self._throttle)
        for render in look.timed:
            released.extend(self._keep_times(render, now))
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
        opened = is_open(plan.window, plan.timezone, now)
        for render_id in self.windows.out_of_step(schedule, window_open=opened, long=long):
            if self._move(render_id, opened=opened):
                yield render_id
            self.windows.note(render_id, window_open=opened)

    def _keep_times(self, render: TimedRender, now: float) -> Iterator[str]:
        """Yield the render if it was released."""
        try:
            opened = may_render(render.times, now)
        except InvalidInput as error:
            # Another machine knew its zone: nobody here can say, and the others do not wait for it.
            if self._throttle.passes(render.id):
                log.error("times of a render cannot be read", extra={"render": render.id, "error": error})
            return
        if opened != render.window_open:
            if self._move(render.id, opened=opened):
                yield render.id
            self.windows.note_timed(render.id, window_open=opened)

    def _move(self, render_id: str, *, opened: bool) -> bool:
        """Release a render, or hold it; whether it was released."""
        if opened:
            self.intake.jobs.release(render_id)
        else:
            self.intake.jobs.hold(render_id)
        return opened
