"""Turn requests into complete specifications: the model's defaults filled in, a seed for every picture."""

import secrets
from collections.abc import Hashable, Iterable, Iterator

from scheduler.intake.admission import NO_LIMITS, check_work
from scheduler.intake.custom_ids import CustomIds
from scheduler.intake.kinds import Kinds
from scheduler.intake.requests import BadRows, SourcedRequest, at
from storage.access.keys import Limits
from storage.errors import BadSpecification, InvalidInput, NotFound
from storage.jobs.values import NewJob
from storage.spec.copies import copied
from storage.spec.kinds import SpecKind
from storage.spec.picture import DISTINCT_SEEDS, MAX_CUSTOM_ID_CHARACTERS, MAX_SEED, Request, Spec
from storage.spec.registry import Registry
from storage.spec.slots import denoises_by_slots


def draw_seed() -> int:
    """Draw a seed, of those that all draw different noise."""
    return secrets.randbelow(DISTINCT_SEEDS)


def specify(
    asked: Iterable[SourcedRequest],
    registry: Registry,
    *,
    pictures_each: int = 1,
    seed: int | None = None,
    limits: Limits = NO_LIMITS,
    bad: BadRows | None = None,
) -> Iterator[NewJob]:
    """Yield complete specifications, `pictures_each` for every request, with its name and labels.

    Pictures without a seed of their own are numbered from `seed`, or from one drawn here: distinct, and recorded
    with each picture; after the last of the seeds that draw different noise comes 0. A request's own seed is that of
    its first picture; the next ones count up from it.

    Raises BadSpecification with the request's place if a seed grows past the largest or its model refuses it,
    NotPermitted if a picture is more work than `limits` allow, unless `bad` leaves such requests out. A name that an
    earlier picture has is wrong, too.
    """
    bad = bad or BadRows()
    slots = {alias: denoises_by_slots(model) for alias, model in registry.models.items()}
    drawn, next_seed = seed is None, draw_seed() if seed is None else seed
    kinds = Kinds(registry)
    with CustomIds() as names:
        for where, request, copies, like in asked:
            n = copies or pictures_each
            for copy in range(n):
                if request.seed is None:
                    own, next_seed = next_seed, (next_seed + 1) % DISTINCT_SEEDS if drawn else next_seed + 1
                else:
                    own = request.seed + copy
                try:
                    mine = request if copy == 0 else copied(request, {"seed": own}, request.model_fields_set | {"seed"})
                    spec, kind = _resolved(mine, kinds, own, like)
                    if limits.work is not None:
                        check_work(spec, limits)
                    name = request.custom_id
                    if name is not None:
                        name = _name(name, copy, n)
                        names.take(name, where)
                except InvalidInput as error:
                    bad.met(at(where, error))
                    break
                yield NewJob(spec=spec, custom_id=name, labels=request.labels, kind=kind, by_slots=slots[spec.model])


def _resolved(request: Request, kinds: Kinds, seed: int, like: Hashable | None) -> tuple[Spec, SpecKind | None]:
    if seed > MAX_SEED:
        raise BadSpecification(f"seed: {seed} is above the largest seed, {MAX_SEED}; start lower")
    try:
        return kinds.resolve(request, seed, like)
    except NotFound as error:
        # In a request an unknown model is a wrong field, not a missing resource.
        raise BadSpecification(f"model: {error}") from None


def _name(custom_id: str, copy: int, copies: int) -> str:
    """Return the caller's name for a picture: of several copies, each gets its number.

    Raises BadSpecification if its number, or that of a combination, makes it longer than a name may be.
    """
    name = custom_id if copies == 1 else f"{custom_id}-{copy}"
    if len(name) > MAX_CUSTOM_ID_CHARACTERS:
        raise BadSpecification(
            f"custom_id: {name[:20]!r}… has {len(name)} characters with the number of its picture; "
            f"the most is {MAX_CUSTOM_ID_CHARACTERS}"
        )
    return name
