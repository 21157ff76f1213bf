"""Say in one sentence, from the rows, what a render waits for: for `farm status`, the API and its clients.

The sentence names nobody else's renders, prompts or errors: it is for whoever may see the render.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from scheduler.intake.moments import in_zone
from scheduler.intake.times import starts_at
from scheduler.results.fleet_seen import FleetSeen
from storage.errors import BadSettings, BadSpecification
from storage.fleet.workers import SILENT_SECONDS, WorkerView
from storage.renders.schedules import Schedules
from storage.rules.render_times import RenderTimes
from storage.rules.states import Priority

if TYPE_CHECKING:
    from scheduler.services import Services
    from storage.renders.views import JobView, RenderView

#: As far as positions are counted (`Views.position`).
_COUNTED_TO = 10_000


class Hindrance(StrEnum):
    """What keeps every job of a model in the queue."""

    NO_WORKER = "no worker"
    NOT_SERVED = "not served"
    QUARANTINE = "quarantine"
    TROUBLE = "trouble"


@dataclass(frozen=True)
class Hindered:
    """What keeps every job of a model in the queue, and the sentence that says so."""

    kind: Hindrance
    sentence: str


def why_held(services: "Services", render: "RenderView") -> str:
    """Say who holds a held render, and until when."""
    schedule = Schedules(services.database).holding(render.id)
    if schedule is not None and schedule.plan.window is not None:
        opens = schedule.plan.window.split("-")[0]
        return f"held by schedule {schedule.name} until {opens} ({schedule.plan.timezone})"
    if render.times is not None and render.times_shut:
        return _held_by_times(services, render.times)
    return f"held until somebody resumes it (`farm release {render.id}`)"


def _held_by_times(services: "Services", times: RenderTimes) -> str:
    now = Schedules(services.database).now()
    try:
        starts = in_zone(starts_at(times, now), times.timezone)
    except BadSpecification as error:
        return f"held, and nobody here can say until when: {error}"
    if times.window is None:
        return f"held until {starts}, as it was submitted"
    waits = "not before then, and " if times.not_before is not None and times.not_before > now else ""
    return f"held until {starts}: {waits}rendered only within the window {times.window}"


def why_waiting(
    fleet: FleetSeen, render: "RenderView", first: "JobView", *, position: int, seconds: float | None
) -> str:
    """Say what a render waits for none of whose pictures is on a device.

    Args:
        first: of its waiting jobs, the one that is claimed next.
        position: how many pictures are ahead of that.
        seconds: how long those take, if known.
    """
    model = first.spec.model
    hindered = what_hinders(fleet, model)
    if hindered is not None:
        return hindered.sentence
    again = f" (attempt {first.attempt + 1}, after a fault: {first.fault})" if first.fault else ""
    if position:
        return _behind(fleet.services, render, model, position, seconds) + again
    return _next(_serving(fleet.workers, model)) + again


def nobody_renders(services: "Services") -> str | None:
    """Say that no worker is alive, and how to start one; None if one is."""
    workers = services.workers.all()
    return None if any(worker.silent_for <= SILENT_SECONDS for worker in workers) else _nobody_works(services, workers)


def what_hinders(fleet: FleetSeen, model: str) -> Hindered | None:
    """Return what keeps every job of a model in the queue; None if a worker could render one now."""
    services, workers = fleet.services, fleet.workers
    alive = [worker for worker in workers if worker.silent_for <= SILENT_SECONDS]
    if not alive:
        return Hindered(Hindrance.NO_WORKER, _nobody_works(services, workers))
    serving = _serving(workers, model)
    if not serving:
        served = ", ".join(sorted({alias for worker in alive for alias in worker.models}))
        now = f"{_counted(len(alive), 'worker')} now, serving {served or 'nothing'}"
        return Hindered(Hindrance.NOT_SERVED, f"no worker serves {model}{_if_unknown(services, model)}; {now}")
    if (left := _seconds_of_quarantine(fleet, serving, model)) is not None:
        said = f"every worker that serves {model} is in quarantine, the first until {_clock(services, left)}"
        return Hindered(Hindrance.QUARANTINE, said)
    troubled = [worker.trouble for worker in serving if worker.trouble]
    if len(troubled) == len(serving):
        return Hindered(Hindrance.TROUBLE, f"every worker that serves {model} waits: {troubled[0]}")
    return None


def _if_unknown(services: "Services", model: str) -> str:
    try:
        known = model in services.registry.models
    except BadSettings:
        # Who asks why is not to hear of the registry instead; `farm doctor` tells of it.
        return ""
    return "" if known else ", which is not in the registry any more (add it again, or cancel the render)"


def _serving(workers: Sequence[WorkerView], model: str) -> list[WorkerView]:
    return [worker for worker in workers if worker.silent_for <= SILENT_SECONDS and model in worker.models]


def _nobody_works(services: "Services", workers: Sequence[WorkerView]) -> str:
    embedded = services.settings.embedded
    start = "`farm up` starts one" if embedded else "`farm-worker` starts one on a machine with a device"
    if not workers:
        return f"no worker runs; {start}"
    last = min(worker.silent_for for worker in workers)
    return f"no worker has been heard of since {_clock(services, -last)}; {start}"


def _seconds_of_quarantine(fleet: FleetSeen, serving: Sequence[WorkerView], model: str) -> float | None:
    """Return the seconds until the first of these workers may serve a model again; None if one may now."""
    until: dict[str, float] = {}
    for quarantine in fleet.quarantines:
        if quarantine.model in (None, model):
            until[quarantine.worker] = max(quarantine.seconds_left, until.get(quarantine.worker, 0.0))
    left = [until.get(worker.name, 0.0) for worker in serving]
    return min(left) if all(left) else None


def _behind(services: "Services", render: "RenderView", model: str, position: int, seconds: float | None) -> str:
    better = [priority for priority in Priority if priority < render.priority]
    higher = min(position, sum(services.jobs.waiting(model, one, at_most=_COUNTED_TO) for one in better))
    of_which = "" if not higher else " of higher priority" if higher == position else f", {higher:,} of higher priority"
    takes = "" if seconds is None else f", about {_duration(seconds)}"
    at_least = "at least " if position >= _COUNTED_TO else ""
    return f"behind {at_least}{_counted(position, 'picture')}{of_which}{takes}"


def _next(serving: Sequence[WorkerView]) -> str:
    if any(worker.state == "loading" for worker in serving):
        return "next in turn: a worker is loading a model"
    if all(worker.state == "rendering" for worker in serving):
        return f"next in turn: {_counted(len(serving), 'worker')} that could render it, each with other pictures"
    return "next in turn"


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _clock(services: "Services", seconds_from_now: float) -> str:
    now = Schedules(services.database).now()
    return clock(now + seconds_from_now, now=now)


def clock(at: float, *, now: float) -> str:
    """Return a time, with its day unless that is today."""
    then, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    return then.strftime("%H:%M UTC" if then.date() == today.date() else "%Y-%m-%d %H:%M UTC")
