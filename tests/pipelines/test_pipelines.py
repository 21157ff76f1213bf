"""Real Diffusers pipelines with random weights, through the worker's own code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import AutoPipelineForText2Image

from storage.errors import ModelUnavailable
from storage.registry import DiffusersModel, parse_registry
from storage.spec import SAMPLERS, Request, Spec
from tests.pipelines import random_weights
from worker.devices import Device
from worker.renderers import Abandoned, Renderer, load

CPU = Device("cpu", 0)
TINY = """
[models.tiny]
kind = "diffusers"
source = "{source}"
width = 64
height = 64
num_inference_steps = 8
guidance_scale = 5.0
sampler = "ddim"
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with random weights."""
    return random_weights.stable_diffusion(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def renderer(folder: Path) -> Renderer:
    return load(parse_registry(TINY.format(source=folder), where="here")["tiny"], CPU)


def specs(n: int, **fields: object) -> list[Spec]:
    registry = parse_registry(TINY.format(source="nowhere"), where="here")
    requests = (Request.parse({"prompt": f"a red star {i}", "steps": 4, **fields}) for i in range(n))
    return [registry.resolve(request, seed=seed) for seed, request in enumerate(requests)]


def pixels(renderer: Renderer, wanted: Sequence[Spec]) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.stack([np.asarray(picture) for picture in renderer.render(wanted, lambda: None).pictures]).astype(
        np.int16
    )


def test_the_pipeline_with_random_weights_opens_like_any_other(folder: Path) -> None:
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, use_safetensors=True)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert sorted(path.name for path in folder.rglob("*.safetensors")) != []


def test_the_same_batch_gives_the_same_pictures(renderer: Renderer) -> None:
    assert (pixels(renderer, specs(4)) == pixels(renderer, specs(4))).all()


def test_a_picture_does_not_depend_on_its_batch_beyond_rounding(renderer: Renderer) -> None:
    together = pixels(renderer, specs(8))
    alone = np.concatenate([pixels(renderer, [spec]) for spec in specs(8)])
    reversed_order = pixels(renderer, specs(8)[::-1])[::-1]
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together - reversed_order).max() <= 1


def test_seed_prompt_and_negative_prompt_each_change_the_picture(renderer: Renderer) -> None:
    [spec] = specs(1)
    changed: list[dict[str, Any]] = [{"seed": 9}, {"prompt": "a blue cross"}, {"negative_prompt": "a red star"}]
    pictures = pixels(renderer, [spec, *(spec.model_copy(update=change) for change in changed)])
    assert all((pictures[0] != other).any() for other in pictures[1:])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_renders_and_renders_the_same_again(renderer: Renderer, sampler: str) -> None:
    wanted = specs(2, sampler=sampler)
    first = pixels(renderer, wanted)
    assert (first == pixels(renderer, wanted)).all()
    assert first.std() > 1


def test_samplers_differ(renderer: Renderer) -> None:
    assert (pixels(renderer, specs(1, sampler="ddim")) != pixels(renderer, specs(1, sampler="euler a"))).any()


def test_sizes_are_as_asked_for(renderer: Renderer) -> None:
    assert pixels(renderer, specs(1, width=96, height=64)).shape == (1, 64, 96, 3)


def test_steps_are_reported_and_what_the_listener_raises_passes_through(renderer: Renderer) -> None:
    steps: list[int] = []
    renderer.render(specs(2), lambda: steps.append(1))
    assert len(steps) == 4

    def abandon() -> None:
        raise Abandoned

    with pytest.raises(Abandoned):
        renderer.render(specs(2), abandon)


def test_the_recipe_names_what_the_picture_depends_on(renderer: Renderer) -> None:
    recipe = renderer.render(specs(1), lambda: None).recipe
    assert recipe["dtype"] == "float32"
    assert recipe["scheduler"] == "DDIMScheduler"
    assert {"torch", "diffusers", "transformers", "device", "source"} <= recipe.keys()


def test_a_model_that_is_not_there_is_unavailable_with_its_reason(tmp_path: Path) -> None:
    model = DiffusersModel(alias="gone", kind="diffusers", source=str(tmp_path / "no-such-folder"))
    with pytest.raises(ModelUnavailable, match="model gone .*no-such-folder"):
        load(model, CPU)
