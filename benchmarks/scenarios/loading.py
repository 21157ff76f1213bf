"""Switching to another model, beside the time that its bytes take."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.prompts import SHIPPED
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target
from benchmarks.users import peer

_MODEL = Path(__file__).resolve().parents[2] / "worker" / "models" / SHIPPED


@contextmanager
def _loaded(conditions: Conditions, *, how: str) -> Iterator[Round]:
    arguments = (str(_MODEL), str(conditions.folder), "quick" if conditions.quick else "usual")
    # One process for all: a model takes hundreds of megabytes to make.
    loading = conditions.servers.keep(
        "loading", lambda: peer("benchmarks.peers.loading", conditions.folder, *arguments)
    )

    def one_round() -> Figures:
        told = loading.ask(how=how)
        return {"seconds": told["seconds"], "mb_per_second": told["bytes"] / told["seconds"] / 1e6}

    yield one_round


SCENARIO = Scenario(
    name="switching",
    title="Switching to another model",
    measures=(
        "Seconds until a worker of a CPU has another model of the Stable Diffusion kind in memory, from files that the "
        "system has in its cache: as the worker loads it, by as many threads as it has here, as `from_pretrained` "
        "does, and a plain copy of its bytes. Pages that are mapped count once they are read."
    ),
    limit="the copy; on a GPU, a copy to the device besides (python -m benchmarks.gpu)",
    figures={
        "seconds": Figure("until it is loaded", "s", "lower"),
        "mb_per_second": Figure("of the model's files", "MB/s", "higher"),
    },
    arms=[
        Arm("farm", partial(_loaded, how="farm"), ("torch", "diffusers")),
        Arm("from_pretrained", partial(_loaded, how="from_pretrained"), ("torch", "diffusers")),
        Arm("its bytes", partial(_loaded, how="bytes"), ("torch", "diffusers")),
    ],
    targets=[Target("10", "seconds", "farm", "<=", 1.5, over="its bytes")],
    share=25,
)
