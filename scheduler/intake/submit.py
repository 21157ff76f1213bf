"""Accepting a render: requests become specifications with seeds, then rows, then tickets."""

import difflib
import logging
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from scheduler.intake.requests import BadRows, SourcedRequest, at
from scheduler.intake.tickets import top_up
from storage.broker.tickets import Tickets
from storage.errors import BadSpecification, BrokerProblem, InvalidInput, NotFound
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob, Submission
from storage.spec.capabilities import remarks
from storage.spec.picture import MAX_SEED, NAMES, Request, Spec
from storage.spec.registry import Registry

log = logging.getLogger(__name__)

#: Drawn seeds stay below 2⁴⁸, so that a million counted up from one are exact in JSON readers' doubles (2⁵³).
_DRAWN_SEEDS = 2**48


def draw_seed() -> int:
    return secrets.randbelow(_DRAWN_SEEDS)


def specify(
    asked: Iterable[SourcedRequest],
    registry: Registry,
    *,
    pictures_each: int = 1,
    seed: int | None = None,
    bad: BadRows | None = None,
) -> Iterator[NewJob]:
    """Complete specifications, `pictures_each` for every request, with its name and labels.

    Pictures without a seed of their own are numbered from `seed`, or from one drawn here: distinct, and recorded
    with each picture. A request's own seed is that of its first picture; the next ones count up from it.

    Raises BadSpecification with the request's place if a seed grows past the largest or its model refuses it, unless
    `bad` leaves such requests out.
    """
    bad = bad or BadRows()
    next_seed = draw_seed() if seed is None else seed
    for where, request in asked:
        for copy in range(pictures_each):
            if request.seed is None:
                own, next_seed = next_seed, next_seed + 1
            else:
                own = request.seed + copy
            try:
                if own > MAX_SEED:
                    raise BadSpecification(f"seed: {own} is above the largest seed, {MAX_SEED}; start lower")
                one = request if copy == 0 else request.model_copy(update={"seed": own})
                spec = registry.resolve(one, seed=own)
            except InvalidInput as error:
                bad.met(at(where, error))
                break
            yield NewJob(spec=spec, custom_id=_name(request, copy, pictures_each), labels=request.labels)


def _name(request: Request, copy: int, copies: int) -> str | None:
    """What the caller calls this picture: of several, each gets its number."""
    return request.custom_id if request.custom_id is None or copies == 1 else f"{request.custom_id}-{copy}"


def collecting_remarks(wanted: Iterable[NewJob], registry: Registry, noted: Counter[str]) -> Iterator[NewJob]:
    """The pictures unchanged; `noted` counts those of each remark on them."""
    for one in wanted:
        noted.update(remarks(one.spec, registry[one.spec.model]))
        if one.labels:
            noted.update(map(_remark_on_label, one.labels))
        yield one


@cache
def _remark_on_label(name: str) -> str:
    """A mistyped field is a label, too: somebody should see it."""
    meant = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.8)
    return f"{name}: kept as a label" + (f"; did you mean {meant[0]}?" if meant else "")


def quanta(registry: Registry) -> dict[str, int]:
    """How many jobs an owner is dealt per round: one batch."""
    return {alias: model.batch_limit for alias, model in registry.models.items()}


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A render that is in the queue, and the models that it needs."""

    render_id: str
    models: tuple[str, ...]


def submit(
    jobs: Jobs,
    registry: Registry,
    tickets: Tickets | None,
    wanted: Iterable[NewJob | Spec],
    submission: Submission,
) -> Accepted:
    """Accept a render whole or not at all, and call for workers.

    Without a broker, or with one that fails now, the render is accepted all the same: the sweep publishes tickets.
    """
    models: set[str] = set()

    def noted() -> Iterator[NewJob | Spec]:
        for one in wanted:
            models.add(one.spec.model if isinstance(one, NewJob) else one.model)
            yield one

    render_id = jobs.submit(noted(), submission, quanta=quanta(registry))
    accepted = Accepted(render_id=render_id, models=tuple(sorted(models)))
    publish_tickets(jobs, registry, tickets, accepted.models)
    return accepted


def publish_tickets(jobs: Jobs, registry: Registry, tickets: Tickets | None, models: Iterable[str]) -> None:
    """Publish the tickets that waiting jobs lack; a broker that is away is only logged."""
    if tickets is None:
        return
    try:
        for alias in models:
            top_up(jobs, tickets, registry[alias])
    except (BrokerProblem, NotFound) as error:
        log.warning("tickets will follow with the next sweep: %s", error)
