"""What every pipeline does through the worker's own code, shown on a Stable Diffusion one with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from torch.nn.functional import scaled_dot_product_attention

from storage.errors import ModelUnavailable, RenderFailed
from storage.rules.faults import Fault
from storage.spec.models import DiffusersModel
from storage.spec.sampler_names import PLAIN
from storage.spec.samplers import model_calls
from tests.pipelines.conftest import Models
from tests.pipelines.pixels import largest_difference, pixels
from worker.rendering.backend import Abandoned, LoadedModel
from worker.rendering.samplers import _SAMPLERS
from worker.rendering.tuning import attention


@pytest.fixture(scope="session")
def model(loaded: Callable[[str], LoadedModel]) -> LoadedModel:
    return loaded("sd")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd", "StableDiffusionPipeline"),
        ("sdxl", "StableDiffusionXLPipeline"),
        ("kandinsky", "KandinskyV22CombinedPipeline"),
    ],
)
def test_pipelines_with_random_weights_open_like_any_other(weights: Path, name: str, expected: str) -> None:
    pipeline = AutoPipelineForText2Image.from_pretrained(weights / name, use_safetensors=True)
    assert type(pipeline).__name__ == expected
    assert sorted(path.name for path in (weights / name).rglob("*.safetensors")) != []


def test_seed_prompt_and_negative_prompt_each_change_the_picture(models: Models, model: LoadedModel) -> None:
    [spec] = models.specs("sd")
    changed: list[dict[str, Any]] = [{"seed": 9}, {"prompt": "a blue cross"}, {"negative_prompt": "a red star"}]
    pictures = pixels(model, [spec, *(spec.model_copy(update=change) for change in changed)])
    assert all((pictures[0] != other).any() for other in pictures[1:])


@pytest.mark.parametrize("sampler", sorted(PLAIN))
def test_a_sampler_draws_the_same_again_and_alone(models: Models, model: LoadedModel, sampler: str) -> None:
    wanted = models.specs("sd", 3, sampler=sampler)
    together = pixels(model, wanted)
    assert (together == pixels(model, wanted)).all()
    assert largest_difference(together[1], pixels(model, wanted[1:2])) <= 1
    assert together.std() > 1


def test_every_sampler_that_can_be_asked_for_is_made_and_no_other() -> None:
    assert _SAMPLERS.keys() == PLAIN.keys()


def test_samplers_differ(models: Models, model: LoadedModel) -> None:
    pictures = [
        pixels(model, models.specs("sd", sampler=sampler, num_inference_steps=6)).tobytes() for sampler in sorted(PLAIN)
    ]
    assert len(set(pictures)) == len(PLAIN)


def test_sizes_are_as_asked_for(models: Models, model: LoadedModel) -> None:
    assert pixels(model, models.specs("sd", width=96, height=64)).shape == (1, 64, 96, 3)


@pytest.mark.parametrize(("alias", "steps"), [("sd", 3), ("sdxl", 3), ("kandinsky", 3 + 2), ("sd-two", 3)])
def test_steps_are_reported_and_what_the_listener_raises_passes_through(
    models: Models, loaded: Callable[[str], LoadedModel], alias: str, steps: int
) -> None:
    heard: list[int] = []
    prior = {"prior_num_inference_steps": 2} if alias == "kandinsky" else {}
    loaded(alias).render(models.specs(alias, 2, **prior), lambda: heard.append(1))
    assert len(heard) == steps

    def abandon() -> None:
        raise Abandoned

    with pytest.raises(Abandoned):
        loaded(alias).render(models.specs(alias, 2), abandon)


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        ("heun", 1),
        ("heun", 5),
        ("pndm", 1),
        ("pndm", 5),
        ("dpm++ sde", 5),
        ("dpm2", 3),
        ("dpm2 a karras", 1),
        ("dpm++ sde karras", 1),
        ("dpm++ sde simple", 4),
    ],
)
def test_as_many_steps_are_reported_as_are_announced(
    models: Models, model: LoadedModel, sampler: str, steps: int
) -> None:
    heard: list[int] = []
    [spec] = models.specs("sd", sampler=sampler, num_inference_steps=steps)
    model.render([spec], lambda: heard.append(1))
    assert len(heard) == model_calls(spec, models.registry["sd"])


def test_seeds_a_multiple_of_32_bits_apart_are_one_picture_and_others_are_not(
    models: Models, model: LoadedModel
) -> None:
    [spec] = models.specs("sd")
    first, same, other = pixels(model, [spec.model_copy(update={"seed": s}) for s in (5, 5 + 2**32, 6)])
    assert (first == same).all()
    assert (first != other).any()


def test_what_a_model_cannot_do_fails_as_the_pictures_fault_where_the_door_did_not_know(
    models: Models, model: LoadedModel
) -> None:
    [spec] = models.specs("sd")
    for change, said in (
        ({"clip_skip": 20}, "clip_skip: at most"),
        ({"sampler": "lcm", "num_inference_steps": 51}, "50"),
    ):
        with pytest.raises(RenderFailed, match=said) as failure:
            model.render([spec.model_copy(update=change)], lambda: None)
        assert failure.value.fault is Fault.BAD_PICTURE


def test_the_recipe_names_what_the_picture_depends_on(models: Models, model: LoadedModel) -> None:
    recipe = model.render(models.specs("sd"), lambda: None).recipe
    assert recipe["dtype"] == "float32"
    assert recipe["scheduler"] == "DDIMScheduler"
    assert {"torch", "diffusers", "transformers", "device", "source"} <= recipe.keys()


@pytest.mark.parametrize(
    "running",
    [
        {"vae_slicing": True},
        {"vae_tiling": True},
        {"channels_last": True},
        {"attention": "math"},
        {"attention": "efficient"},  # missing on a CPU
        {"offload": "model"},  # on a CPU there is nothing to offload from
        {"tf32": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_how_a_pipeline_is_run_changes_no_picture_beyond_rounding(
    models: Models, loaded: Callable[[str], LoadedModel], alias: str, running: dict[str, Any]
) -> None:
    tuned = models.registry[alias].model_copy(update=running)
    model = models.backend.load(tuned)
    wanted = models.specs(alias, 2)
    assert largest_difference(pixels(model, wanted), pixels(loaded(alias), wanted)) <= 1


@pytest.mark.parametrize("kernel", ["auto", "flash", "efficient", "cudnn", "math"])
def test_what_the_preferred_kernel_of_attention_cannot_do_another_does(kernel: str) -> None:
    # As wide as the heads of a VAE, in single precision: more than flash attention can do on any device.
    query, key, value = torch.randn(3, 1, 1, 16, 512, generator=torch.Generator().manual_seed(0))
    with attention(kernel):
        found = scaled_dot_product_attention(query, key, value)
    expected = torch.softmax(query @ key.transpose(-2, -1) / 512**0.5, dim=-1) @ value
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_a_pipeline_cannot_do_is_said_when_it_is_loaded(models: Models) -> None:
    sliced = models.registry["kandinsky"].model_copy(update={"vae_slicing": True})
    with pytest.raises(ModelUnavailable, match="Slicing .*VQModel"):
        models.backend.load(sliced)


def test_a_model_that_is_not_there_is_unavailable_with_its_reason(models: Models, tmp_path: Path) -> None:
    model = DiffusersModel(alias="gone", kind="diffusers", source=str(tmp_path / "no-such-folder"))
    with pytest.raises(ModelUnavailable, match="model gone .*no-such-folder"):
        models.backend.load(model)
