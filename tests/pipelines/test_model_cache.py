"""Which models a worker holds, and what they share."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from storage.errors import ModelUnavailable
from storage.spec.models import DiffusersModel
from tests.pipelines.conftest import Models
from worker.rendering import diffusers_backend
from worker.rendering.weights import hash_tensors
from worker.serving.model_cache import ModelCache


def cache(models: Models, capacity: int) -> ModelCache:
    return ModelCache({"diffusers": models.backend}, capacity=capacity)


def loads(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was loaded and unloaded, in order."""
    return [
        f"{record.message} model={vars(record)['model']}"
        for record in caplog.records
        if record.message in ("loaded", "unloaded")
    ]


def test_the_least_recently_used_model_makes_room(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.serving.model_cache")
    held = cache(models, 2)
    for alias in ("sd", "sdxl", "sd", "kandinsky", "sd", "sdxl"):
        held.get(models.registry[alias])
    assert loads(caplog) == [
        "loaded model=sd",
        "loaded model=sdxl",
        "unloaded model=sdxl",
        "loaded model=kandinsky",
        "unloaded model=kandinsky",
        "loaded model=sdxl",
    ]


def test_models_of_the_same_weights_hold_them_once(models: Models) -> None:
    held = cache(models, 0)
    opened: list[Any] = [held.get(models.registry[alias]) for alias in ("sd", "sd-control", "sd-two")]
    pipelines = [model.pipeline for model in opened]
    for part in ("unet", "vae", "text_encoder"):
        assert len({id(getattr(pipeline, part)) for pipeline in pipelines}) == 1
    assert [type(pipeline).__name__ for pipeline in pipelines] == [
        "StableDiffusionPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetPipeline",
    ]


def test_a_model_is_what_it_is_whichever_was_loaded_first(models: Models) -> None:
    alone = cache(models, 0).get(models.registry["sd"]).render(models.specs("sd"), lambda: None)
    held = cache(models, 0)
    held.get(models.registry["sd-control"]).render(models.specs("sd-control", sampler="euler a"), lambda: None)
    after = held.get(models.registry["sd"]).render(models.specs("sd"), lambda: None)
    assert after.recipe == alone.recipe
    assert after.recipe["pipeline"] == "StableDiffusionPipeline"
    assert after.recipe["scheduler"] == "DDIMScheduler"
    assert after.pictures[0].tobytes() == alone.pictures[0].tobytes()


def test_where_memory_is_short_models_make_room(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker.serving.model_cache")
    held = cache(models, 0)
    held.get(models.registry["sd"])
    monkeypatch.setattr(models.backend, "available_memory", lambda: 1_000_000)
    # It takes next to nothing: its weights are those of sd.
    held.get(models.registry["sd-control"])
    held.get(models.registry["sdxl"])
    assert loads(caplog) == [
        "loaded model=sd",
        "loaded model=sd-control",
        "unloaded model=sd",
        "unloaded model=sd-control",
        "loaded model=sdxl",
    ]


@pytest.fixture
def own(models: Models, tmp_path: Path) -> tuple[DiffusersModel, DiffusersModel]:
    """A model in a folder that may be written into, and one of the same weights with a ControlNet there."""
    found = []
    for alias in ("sd", "sd-control"):
        model = models.registry[alias]
        assert isinstance(model, DiffusersModel)
        if not (tmp_path / "sd").exists():
            shutil.copytree(model.source, tmp_path / "sd")
        nets = [{"source": net.source} for net in model.controlnets]
        found.append(
            DiffusersModel.model_validate(
                model.model_dump() | {"source": str(tmp_path / "sd"), "controlnets": nets}, strict=False
            )
        )
    plain, controlled = found
    return plain, controlled


def write_over(model: DiffusersModel, *, cut: bool = False) -> None:
    """Write other numbers into the file of a model's UNet, or empty it."""
    file = Path(model.source) / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    tensors["conv_out.weight"] *= -1
    file.write_bytes(b"" if cut else safetensors.torch.save(tensors, {"format": "pt"}))


def test_what_is_written_over_is_loaded_anew_also_by_those_who_share_it(
    models: Models, own: tuple[DiffusersModel, DiffusersModel]
) -> None:
    plain, controlled = own
    held = cache(models, 0)
    before: Any = held.get(plain)
    numbers = before.pipeline.unet.conv_out.weight.detach().clone()
    write_over(plain)
    after: Any = held.get(controlled)
    assert after.pipeline.unet.conv_out.weight.equal(-numbers)
    assert held.aliases == (controlled.alias,)
    again: Any = held.get(plain)
    assert again.pipeline.unet is after.pipeline.unet
    assert held.get(plain) is again


def test_what_is_loaded_is_no_part_of_files_that_are_written_over(
    models: Models, own: tuple[DiffusersModel, DiffusersModel]
) -> None:
    model, _ = own
    loaded: Any = models.backend.load(model)
    numbers = [weight.detach().clone() for weight in loaded.pipeline.unet.parameters()]
    write_over(model, cut=True)
    assert all(one.equal(other) for one, other in zip(numbers, loaded.pipeline.unet.parameters(), strict=True))


def test_what_is_replaced_while_it_is_read_is_read_again_and_hashed_as_it_was_read(
    models: Models, own: tuple[DiffusersModel, DiffusersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = own
    opened = diffusers_backend._pipeline
    left = 1

    def replaced_meanwhile(*arguments: Any) -> Any:
        nonlocal left
        found = opened(*arguments)
        if left:
            left -= 1
            write_over(model)
        return found

    monkeypatch.setattr(diffusers_backend, "_pipeline", replaced_meanwhile)
    loaded: Any = models.backend.load(model)
    said = loaded._recipe["weights"]
    assert said == hash_tensors(loaded.pipeline)
    again: Any = models.backend.load(model)
    assert again._recipe["weights"] == said
    left = 10
    with pytest.raises(ModelUnavailable, match="its files were replaced while they were read, 3 times"):
        models.backend.load(model)
