"""What is left to render, in pictures and in time at the present pace: the form that the API and the page show."""

from collections.abc import Mapping
from statistics import fmean

from pydantic import BaseModel, Field

from scheduler.intake.pace import pace_of, work
from scheduler.results.fleet_seen import FleetSeen
from scheduler.services import Services
from storage.renders.backlog import Backlog, LeftToRender
from storage.rules.states import PRIORITY_NAMES, PriorityName

#: Of a model's last batches, by whose pictures those that wait are measured.
_LAST = 50


class BacklogForm(BaseModel):
    """Describe what is left of an owner's renders of one priority and of the same models."""

    owner: str = Field(description="Whose they are.")
    priority: PriorityName = Field(description="Higher priorities are rendered first.")
    models: list[str] = Field(description="Of their pictures, by alias.")
    held: bool = Field(description="Whether they are out of the queue until they are released.")
    renders: int = Field(description="How many renders.")
    pictures: int = Field(description="How many of their pictures wait or run.")
    oldest_wait: float = Field(description="Seconds since the oldest of them was submitted.")
    seconds_left: float | None = Field(
        description="How long these pictures alone take the workers that serve their models now, by the pace of recent "
        "batches; null if that is unknown, or nobody serves one of them."
    )

    @classmethod
    def of(cls, left: LeftToRender, seconds_each: Mapping[str, float | None]) -> "BacklogForm":
        """Return the form of what is left; `seconds_each`: of a picture, by model."""
        each = [seconds_each[model] for model in left.models]
        known = [seconds for seconds in each if seconds is not None]
        return cls(
            owner=left.owner,
            priority=PRIORITY_NAMES[left.priority],
            models=list(left.models),
            held=left.held,
            renders=left.renders,
            pictures=left.pictures,
            oldest_wait=round(left.oldest_seconds, 1),
            seconds_left=round(left.pictures * fmean(known), 1) if each and len(known) == len(each) else None,
        )


def backlog(services: Services, *, owner: str | None, fleet: FleetSeen | None = None) -> list[BacklogForm]:
    """Return what is left of everybody's renders, or of one owner's; `fleet`: as it was seen already."""
    fleet = fleet or FleetSeen(services)
    left = Backlog(services.database).left(owner=owner)
    models = {model for one in left for model in one.models}
    seconds = {model: seconds_each(fleet, model) for model in models}
    return [BacklogForm.of(one, seconds) for one in left]


def seconds_each(fleet: FleetSeen, alias: str) -> float | None:
    """Return how long the workers take for a picture of a model, such as it rendered lately; None if unknown."""
    model = fleet.services.registry.models.get(alias)
    samples = fleet.samples(alias)[:_LAST] if model else []
    workers = fleet.serving([alias])
    if model is None or not workers or (pace := pace_of(samples, model)) is None:
        return None
    return fmean(work(one.spec, model) for one in samples) / pace.per_second(workers)
