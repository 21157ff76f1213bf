"""Models whose entries in the registry were changed while a worker has them loaded."""

from storage.spec.models import Lora, Model, SimulatedModel
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backends
from worker.serving.model_cache import ModelCache


def model(alias: str, steps: int = 4) -> Model:
    return SimulatedModel(alias=alias, kind="simulated", num_inference_steps=steps)


def cache(tmp_path: object, **loras: Lora) -> ModelCache:
    resources = BackendResources(inputs=InputCache(None), loras={}, home=tmp_path)  # type: ignore[arg-type]
    return ModelCache(open_backends(["simulated"], Device("simulated", 0), resources), loras=loras)


def test_a_model_whose_entry_was_changed_is_loaded_anew_and_others_stay(tmp_path: object) -> None:
    models = cache(tmp_path)
    first, other = models.get(model("a")), models.get(model("b"))
    assert models.get(model("a", steps=8)) is not first
    assert models.loaded("a") == model("a", steps=8)
    assert models.get(model("b")) is other


def test_a_lora_that_means_another_file_now_is_not_that_of_before(tmp_path: object) -> None:
    ink, oil = Lora(alias="ink", source="/ink.safetensors"), Lora(alias="oil", source="/oil.safetensors")
    models = cache(tmp_path, ink=ink)
    first = models.get(model("a"))
    models.forget_changed_loras({"ink": ink, "oil": oil})
    assert models.get(model("a")) is first
    models.forget_changed_loras({"ink": oil.model_copy(update={"alias": "ink"}), "oil": oil})
    assert models.get(model("a")) is not first


def test_a_backend_is_opened_when_a_model_of_its_kind_is_added(tmp_path: object) -> None:
    resources = BackendResources(inputs=InputCache(None), loras={}, home=tmp_path)  # type: ignore[arg-type]
    backends = open_backends([], Device("simulated", 0), resources)
    assert not backends
    assert ModelCache(backends).get(model("a")) is not None
    assert list(backends) == ["simulated"]
