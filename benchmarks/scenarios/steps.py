"""Mixed, uniform and urgent pictures: slots that they join at every step, beside a build that goes batch by batch.

`steps` has all of them, of three models; `slots` those of the shipped model that decide about serving, in ten minutes.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil

from benchmarks.build_farm import BuildFarm, build_farm, percentile
from benchmarks.machine import REPOSITORY
from benchmarks.prompts import GUIDANCE, SHIPPED, SIZE, STEPS, prompts
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Round, Scenario, Target
from tests.servers import eventually

_PICTURES, _QUICK = 48, 4
_URGENT, _URGENT_QUICK = 5, 1
_SAMPLERS = ("ddim", "euler", "dpm++ 2m", "unipc")
#: As many as a CPU has of itself, once all were called, for a small model.
_WORKERS = min(16, psutil.cpu_count(logical=False) or 1)
#: The simulated model: a step takes a + c·B, as on a small GPU.
_SIMULATED = """
kind = "simulated"
seconds_per_step = 0.012
seconds_per_step_and_picture = 0.004
"""
_DIFFUSERS = """
kind = "diffusers"
pipeline = "StableDiffusionPipeline"
source = "{source}"
sampler = "ddim"
"""
_SHARED = (
    f"batch_limit = 8\nwidth = {SIZE}\nheight = {SIZE}\nnum_inference_steps = {STEPS}\nguidance_scale = {GUIDANCE}\n"
)


def registry(model: str, folder: Path) -> str:
    """Return the registry of a farm with one model; files that it needs are made in a folder."""
    if model == "simulated":
        own = _SIMULATED
    elif model == SHIPPED:
        own = _DIFFUSERS.format(source=f"shipped:{SHIPPED}")
    else:
        # Imports torch.
        from tests.pipelines.random_weights import stable_diffusion

        own = _DIFFUSERS.format(source=stable_diffusion(folder / "random"))
    return f'default = "one"\n[models.one]\n{own}{_SHARED}'


def mixed(n: int, seed: int) -> Sequence[dict[str, object]]:
    """Return rows as of a dataset that varies them: steps 10 to 40, guidance 3 to 7.5, four samplers, one size."""
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    return [
        {
            "prompt": prompt,
            "num_inference_steps": draw.randint(10, 40),
            "guidance_scale": round(draw.uniform(3, 7.5), 1),
            "sampler": draw.choice(_SAMPLERS),
            "seed": seed + number,
        }
        for number, prompt in enumerate(prompts(n))
    ]


def _uniform(n: int, seed: int) -> Sequence[dict[str, object]]:
    return [{"prompt": prompt, "seed": seed + number} for number, prompt in enumerate(prompts(n))]


class _Rounds:
    """Rounds of one farm."""

    def __init__(self, farm: BuildFarm, conditions: Conditions) -> None:
        self._farm = farm
        self._folder = conditions.folder
        self._pictures = _QUICK if conditions.quick else _PICTURES
        self._urgent = _URGENT_QUICK if conditions.quick else _URGENT
        self._seeds = count(1, step=1000)

    def __call__(self) -> Figures:
        varied = self._pace(mixed)
        figures = {"mixed": varied, **self.of_serving(), "peak": self._farm.peak_mib()}
        if (slots := self._farm.slots()) is not None:
            figures["fill"] = 100 * slots["rows_used"] / slots["rows_computed"]
        return figures

    def of_serving(self) -> dict[str, float]:
        """Return what pictures alike take, and urgent ones, alone and beside others."""
        before = self._farm.processor_seconds()
        uniform = self._pace(_uniform)
        processor = (self._farm.processor_seconds() - before) / self._pictures
        alone = [self._one() for _ in range(self._urgent)]
        among = self._urgent_ones()
        return {
            "uniform": uniform,
            "uniform_processor": 1000 * processor,
            "idle_median": percentile(alone, 50),
            "urgent_median": percentile(among, 50),
            "urgent_95": percentile(among, 95),
            "urgent_ratio": percentile(among, 50) / percentile(alone, 50),
            "urgent_95_ratio": percentile(among, 95) / percentile(alone, 95),
        }

    def _pace(self, rows_of: Callable[[int, int], Sequence[dict[str, object]]]) -> float:
        rows = rows_of(self._pictures, next(self._seeds))
        return len(rows) / self._seconds(rows)

    def _seconds(self, rows: Sequence[dict[str, object]], *arguments: str) -> float:
        render = self._farm.submit(self._file(rows), *arguments)
        self._farm.wait(render)
        return self._farm.seconds(render)

    def _one(self) -> float:
        return self._seconds(_uniform(1, next(self._seeds)), "--priority", "interactive")

    def _urgent_ones(self) -> list[float]:
        """Urgent pictures while a bulk render has all that the farm can do."""
        bulk = self._farm.submit(self._file(_uniform(4 * self._pictures, next(self._seeds))), "--priority", "bulk")
        eventually(lambda: self._farm.running(bulk), "the bulk render runs")
        found = [self._one() for _ in range(self._urgent)]
        if self._pictures > _QUICK and not self._farm.running(bulk):
            raise RuntimeError("the bulk render ended before the urgent pictures did")
        # Its rest would take as long as all else of a round, and tell nothing.
        self._farm.cancel(bulk)
        return found

    def _file(self, rows: Sequence[dict[str, object]]) -> Path:
        file = self._folder / f"rows-{next(self._seeds)}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file


def _farm(model: str, *, other: bool = False, of_serving: bool = False) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        checkout = conditions.against if other else REPOSITORY
        if checkout is None:
            raise AssertionError("unreachable: without another build this arm is left out")
        folder = conditions.folder / f"{'other' if other else 'this'}-{model}"
        folder.mkdir()
        # All workers from the start: some would begin in the midst of a round, and not in the same one of each build.
        devices = ["simulated"] if model == "simulated" else [f"cpu:{number}" for number in range(_WORKERS)]
        with build_farm(checkout, folder, models=registry(model, folder), FARM_DEVICES=",".join(devices)) as farm:
            eventually(lambda: farm.workers() >= len(devices), "all workers serve")
            rounds = _Rounds(farm, conditions)
            yield rounds.of_serving if of_serving else rounds

    return opened


_MODELS = (SHIPPED, "random", "simulated")

_OF_SERVING = {
    "uniform": Figure("pictures alike", "1/s", "higher"),
    "uniform_processor": Figure("processor time of one of these", "ms", "lower"),
    "idle_median": Figure("one picture on an idle farm, median", "s", "lower"),
    "urgent_median": Figure("an urgent one beside a bulk render, median", "s", "lower"),
    "urgent_95": Figure("the same, 95th percentile", "s", "lower"),
    "urgent_ratio": Figure("the median ÷ an idle farm's", "×", "lower"),
    "urgent_95_ratio": Figure("the 95th percentile ÷ an idle farm's", "×", "lower"),
}

_STEPS = Scenario(
    name="steps",
    title="Pictures that join at every step",
    measures=(
        f"{_PICTURES} pictures of mixed steps (10–40), guidance (3–7.5) and four samplers, then {_PICTURES} alike, "
        f"then {_URGENT} urgent ones alone, and {_URGENT} while a bulk render runs, from submission to stored, on the "
        "shipped model, a small UNet of random weights, and a simulated device."
    ),
    limit="every row of every call a picture's own, and nothing but calls of the model",
    figures={
        "mixed": Figure("mixed pictures", "1/s", "higher"),
        **_OF_SERVING,
        "fill": Figure("rows of pictures ÷ rows computed", "%", "higher"),
        "peak": Figure("most memory of one process", "MiB", "lower"),
    },
    arms=[
        *(Arm("farm", _farm(model), at={"model": model}) for model in _MODELS),
        *(
            Arm("farm, other build", _farm(model, other=True), at={"model": model}, other_build=True)
            for model in _MODELS
        ),
    ],
    targets=[
        *(
            Target("22 a", "mixed", "farm", ">=", 2.0, over="farm, other build", at={"model": model})
            for model in (SHIPPED, "random")
        ),
        Target("22 e", "peak", "farm", "<=", 1.05, over="farm, other build", at={"model": SHIPPED}),
    ],
    share=900,
    tier="long",
)

_SLOTS = Scenario(
    name="slots",
    title="Pictures alike, and urgent ones, by slots",
    measures=(
        f"{_PICTURES} pictures alike, then {_URGENT} urgent ones alone, and {_URGENT} while a bulk render runs, whose "
        "rest is then cancelled, from submission to stored, on the shipped model."
    ),
    limit="calls of the model, full ones for pictures alike, and an urgent one's own",
    figures=_OF_SERVING,
    arms=[
        Arm("farm", _farm(SHIPPED, of_serving=True)),
        Arm("farm, other build", _farm(SHIPPED, other=True, of_serving=True), other_build=True),
    ],
    targets=[
        Target("22 b", "uniform", "farm", ">=", 1.0, over="farm, other build"),
        Target("22 b", "uniform_processor", "farm", "<=", 1.0, over="farm, other build"),
        Target("22 c", "urgent_ratio", "farm", "<=", 1.3),
        Target("22 c", "urgent_95_ratio", "farm", "<=", 1.6),
    ],
    share=540,
    tier="long",
)

SCENARIOS = [_STEPS, _SLOTS]
