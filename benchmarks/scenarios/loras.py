"""Pictures with different LoRAs: denoised together, beside a build in which those of a call have the same ones."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from benchmarks.build_farm import BuildFarm, build_farm
from benchmarks.machine import REPOSITORY
from benchmarks.prompts import SHIPPED, STEPS, prompts
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Round, Scenario, Target
from benchmarks.scenarios.steps import registry
from storage.spec import model_files as shipped

_LORAS = 8
_PICTURES, _QUICK = 32, 8
#: One after the other, each by itself.
_SINGLE, _SINGLE_QUICK = 8, 2
#: Of trainers' usual sizes, in turns.
_RANKS = (4, 8, 16)


def mixed(n: int, seed: int) -> Sequence[dict[str, object]]:
    """Return rows as of somebody who compares LoRAs: each with the next one, at a scale of its own."""
    return [
        {
            "prompt": prompt,
            "loras": {f"lora{number % _LORAS}": round(0.5 + number // _LORAS % 8 / 10, 2)},
            "seed": seed + number,
        }
        for number, prompt in enumerate(prompts(n))
    ]


def alike(n: int, seed: int) -> Sequence[dict[str, object]]:
    return [
        {"prompt": prompt, "loras": {"lora0": 0.7}, "seed": seed + number} for number, prompt in enumerate(prompts(n))
    ]


class _Rounds:
    """Rounds of one farm."""

    def __init__(self, farm: BuildFarm, conditions: Conditions) -> None:
        self._farm = farm
        self._folder = conditions.folder
        self._pictures = _QUICK if conditions.quick else _PICTURES
        self._single = _SINGLE_QUICK if conditions.quick else _SINGLE
        self._seeds = count(1, step=1000)

    def __call__(self) -> Figures:
        n = self._pictures
        kept = self._seconds(alike(self._single, next(self._seeds)))
        switched = self._seconds(mixed(self._single, next(self._seeds)))
        return {
            "mixed": n / self._seconds(mixed(n, next(self._seeds)), at_once=True),
            "alike": n / self._seconds(alike(n, next(self._seeds)), at_once=True),
            "switch": 100 * (switched / kept - 1),
        }

    def _seconds(self, rows: Sequence[dict[str, object]], *, at_once: bool = False) -> float:
        """Return how long pictures take, all of one render or each by itself."""
        renders = [rows] if at_once else [[row] for row in rows]
        return sum(self._one(some) for some in renders)

    def _one(self, rows: Sequence[dict[str, object]]) -> float:
        file = self._folder / f"rows-{next(self._seeds)}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        render = self._farm.submit(file)
        self._farm.wait(render)
        if len(rows) > 1:
            return self._farm.seconds(render)
        [span] = self._farm.spans(render)
        return span.ends - span.begins


def _farm(*, other: bool = False) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        checkout = conditions.against if other else REPOSITORY
        if checkout is None:
            raise AssertionError("unreachable: without another build this arm is left out")
        folder = conditions.folder / ("other" if other else "this")
        folder.mkdir()
        models = registry(SHIPPED, folder) + "".join(
            f'\n[loras.{file.stem}]\nsource = "{file}"\n' for file in _written(folder)
        )
        with build_farm(checkout, folder, models=models) as farm:
            yield _Rounds(farm, conditions)

    return opened


def _written(folder: Path) -> Sequence[Path]:
    """Write LoRAs of random matrices for the shipped model, as kohya's trainer does."""
    # Imports torch.
    from diffusers import StableDiffusionPipeline

    from tests.pipelines import kohya

    pipeline = StableDiffusionPipeline.from_pretrained(shipped.SHIPPED / SHIPPED)
    return [
        kohya.write(
            folder / f"lora{number}.safetensors",
            pipeline,
            kohya.Kind(ranks=(_RANKS[number % len(_RANKS)],), alphas=(0.1,)),
            seed=number,
        )
        for number in range(_LORAS)
    ]


SCENARIO = Scenario(
    name="loras",
    title="Pictures with different LoRAs",
    measures=(
        f"{_PICTURES} pictures with {_LORAS} LoRAs in turns, each at {_PICTURES // _LORAS} scales, then {_PICTURES} "
        f"with one and the same, from submission to stored, on the shipped model; and what {_SINGLE} pictures of "
        f"{STEPS} steps, one after the other, take longer if each has another LoRA, which was used before."
    ),
    limit="as many pictures a second as with one LoRA, or with none",
    figures={
        "mixed": Figure("pictures with different LoRAs", "1/s", "higher"),
        "alike": Figure("pictures with one LoRA", "1/s", "higher"),
        "switch": Figure("longer with another LoRA each time", "%", "lower"),
    },
    arms=[Arm("farm", _farm()), Arm("farm, other build", _farm(other=True), other_build=True)],
    targets=[
        Target("23 a", "mixed", "farm", ">=", 1.8, over="farm, other build"),
        Target("23 b", "alike", "farm", ">=", 1.0, over="farm, other build"),
        Target("23 c", "switch", "farm", "<=", 10),
    ],
    share=400,
    tier="long",
)
