"""Estimate a waiting render's position in the queue, and when it will be done."""

from typing import TYPE_CHECKING, Any

from storage.rules.states import Priority

if TYPE_CHECKING:
    from scheduler.intake.estimate import Estimate
    from scheduler.results.fleet_seen import FleetSeen
    from scheduler.services import Services
    from storage.renders.views import JobView, RenderView
    from storage.spec.picture import Spec

_COUNTED_TO = 100_000


def outlook(services: "Services", render: "RenderView", fleet: "FleetSeen | None" = None) -> dict[str, Any]:
    """Return a render's `position` in the queue, its `seconds_left` as far as known, and `why` it waits.

    Args:
        fleet: as it was seen already; by itself, it is read once.

    A held render has neither of the first two: it ends when somebody releases it.
    """
    if render.finished:
        return {"position": None, "seconds_left": 0.0, "why": None}
    # Loaded here, as below: a command that shows a render's end does without.
    from scheduler.results.fleet_seen import FleetSeen
    from scheduler.results.why import why_held, why_waiting

    if render.held:
        return {"position": None, "seconds_left": None, "why": why_held(services, render)}
    fleet = fleet or FleetSeen(services)
    waiting = services.views.next_waiting(render.id)
    position = (waiting and services.views.position(waiting)) or 0
    # Without any that waits, its last ones are on a device; they are like its others.
    like = waiting or next(iter(services.views.jobs(render.id, limit=1)), None)
    if like is None:
        # Deleted since it was looked at.
        return {"position": None, "seconds_left": None, "why": None}
    seconds_left = _seconds(fleet, like.spec, position + render.remaining)
    why = None
    if waiting is not None and not render.running:
        ahead = None if seconds_left is None else seconds_left * position / (position + render.remaining)
        why = why_waiting(fleet, render, waiting, position=position, seconds=ahead)
    return {"position": position, "seconds_left": seconds_left, "why": why}


def why_next(services: "Services", job: "JobView") -> str:
    """Say what a waiting job waits for."""
    from scheduler.results.fleet_seen import FleetSeen
    from scheduler.results.why import why_waiting

    fleet = FleetSeen(services)
    position = services.views.position(job) or 0
    seconds = _seconds(fleet, job.spec, position) if position else None
    return why_waiting(fleet, services.views.render(job.render_id), job, position=position, seconds=seconds)


def outlook_of_new(services: "Services", estimate: "Estimate", priority: Priority) -> dict[str, float | None]:
    """Return the same of what would be submitted now."""
    from scheduler.intake.pace import serving

    ahead = sum(
        services.jobs.waiting(model, before, at_most=_COUNTED_TO)
        for model in estimate.models
        for before in Priority
        if before <= priority
    )
    devices = len(serving(services.workers, estimate.models))
    if estimate.device_seconds is None or not (devices and estimate.pictures):
        return {"position": ahead, "seconds_left": None}
    # What is ahead is taken to be like this.
    share = (ahead + estimate.pictures) / estimate.pictures
    return {"position": ahead, "seconds_left": round(share * estimate.device_seconds / devices, 1)}


def _seconds(fleet: "FleetSeen", spec: "Spec", pictures: int) -> float | None:
    from scheduler.intake.pace import pace_of, work

    model, workers = fleet.services.registry.models.get(spec.model), fleet.serving([spec.model])
    pace = model and pace_of(fleet.samples(spec.model), model)
    if not (model and pace and workers):
        return None
    return round(pictures * work(spec, model) / pace.per_second(workers), 1)
