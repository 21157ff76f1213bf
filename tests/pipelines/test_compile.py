"""`compile` in the registry: the same pictures, and what one worker compiled the next one finds."""

import json
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from tests.forks import WITH_TORCH, Starter
from tests.pipelines import compiled_workers, kohya, random_weights
from tests.pipelines.kohya import Kind

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What compiled workers found, one after the other."""
    home = tmp_path_factory.mktemp("compiled")
    folder = random_weights.smallest(home / "smallest")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    for seed, (name, rank) in enumerate((("one", 4), ("two", 3), ("three", 2))):
        kohya.write(home / f"{name}.safetensors", pipeline, Kind(ranks=(rank,), text=("q_proj",)), seed=seed)
    command = ["-m", compiled_workers.__name__, str(folder), str(home), str(home)]
    ended = starter.ran(command, folder=home, env=WITH_TORCH)
    assert ended.returncode == 0, ended.stderr
    read: Found = json.loads((home / compiled_workers.FOUND).read_text())
    return read


def difference(one: Any, other: Any) -> int:
    """Return by how many levels pictures differ at most."""
    return int(np.abs(np.array(one) - np.array(other)).max())


def test_compiled_pictures_are_the_same_and_compiled_once(found: Found) -> None:
    first, second = found["first"], found["second"]
    assert np.array(found["eager"]).std() > 1
    for worker in (first, second):
        assert difference(worker["pictures"], found["eager"]) <= 1
    for (picture, calls), alone in zip(second["slots"], found["eager"], strict=True):
        assert difference(picture, alone) <= 1
        assert sum(count for *_, count in calls) == 2
        assert {rows for rows, *_ in calls} == {4}
    assert len(second["slots"]) == 3
    assert first["miss"] > 0
    assert (second["miss"], second["hit"]) == (0, first["miss"])


def test_a_compiled_model_is_not_compiled_again_for_another_lora(found: Found) -> None:
    worker, eager = found["with LoRAs"], found["eager with LoRAs"]
    assert difference(worker["pictures"], eager) <= 1
    assert np.array(eager)[0, 0].std() > 1
    before, after = worker["graphs"]
    assert before == after > 0
