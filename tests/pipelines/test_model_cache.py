"""Which models a worker holds, and what they share."""

import logging
from typing import Any

import pytest

from tests.pipelines.conftest import Models
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
