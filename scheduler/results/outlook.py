"""Estimate a waiting render's position in the queue, and when it will be done."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.rules.states import Priority

if TYPE_CHECKING:
    from storage.fleet.workers import Workers
    from storage.jobs.jobs import Jobs
    from storage.renders.views import RenderView, Views

_COUNTED_TO = 100_000


def outlook(views: "Views", workers: "Workers", render: "RenderView") -> dict[str, float | None]:
    """Return the position of a render's next picture, and seconds until its last one, as far as known."""
    if render.finished:
        return {"position": None, "seconds_left": 0.0}
    found = views.next_waiting(render.id)
    if found is None:
        models = sorted({job.spec.model for job in views.jobs(render.id, limit=1)})
        return {"position": 0, "seconds_left": _seconds(workers, models, render.remaining)}
    position = views.position(found) or 0
    return {"position": position, "seconds_left": _seconds(workers, [found.spec.model], position + render.remaining)}


def outlook_of_new(
    jobs: "Jobs", workers: "Workers", models: Sequence[str], *, pictures: int, priority: Priority
) -> dict[str, float | None]:
    """Return the same of so many pictures that would be submitted now."""
    ahead = sum(
        jobs.waiting(model, before, at_most=_COUNTED_TO)
        for model in models
        for before in Priority
        if before <= priority
    )
    return {"position": ahead, "seconds_left": _seconds(workers, models, ahead + pictures)}


def _seconds(workers: "Workers", models: Sequence[str], pictures: int) -> float | None:
    rate = sum(worker.rate for worker in workers.all() if set(worker.models) & set(models))
    return round(pictures / rate, 1) if rate else None
