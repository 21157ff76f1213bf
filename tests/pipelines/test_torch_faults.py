"""What PyTorch raises, as faults of the farm."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import DeviceBroken, ModelUnavailable, OutOfMemory, RenderFailed, RenderFault
from storage.rules.faults import Fault
from storage.spec.models import DiffusersModel
from tests.pipelines.conftest import Models
from worker.rendering.torch_faults import as_fault


@pytest.mark.parametrize(
    ("error", "kind", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory, Fault.OUT_OF_MEMORY),
        (MemoryError(), OutOfMemory, Fault.OUT_OF_MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory, Fault.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), OutOfMemory, Fault.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory, Fault.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DeviceBroken, Fault.BROKEN_DEVICE),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceBroken, Fault.BROKEN_DEVICE),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceBroken, Fault.BROKEN_DEVICE),
        (ValueError("`height` has to be divisible by 8"), RenderFailed, Fault.BAD_SPECIFICATION),
        (TypeError("unexpected keyword"), RenderFailed, Fault.BAD_SPECIFICATION),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RenderFailed, Fault.PIPELINE_ERROR),
        (KeyError("sample"), RenderFailed, Fault.PIPELINE_ERROR),
        (RenderFailed("black", Fault.BAD_PICTURE), RenderFailed, Fault.BAD_PICTURE),
    ],
)
def test_an_exception_has_a_class(error: Exception, kind: type[RenderFault], fault: Fault) -> None:
    found = as_fault(error)
    assert type(found) is kind
    assert found.fault is fault
    assert "\n" not in str(found)


def _raising(denoiser: Any, error: Exception, *, above: int, seen: list[Any]) -> Any:
    """The UNet's forward pass, which fails for more than so many pictures (with guidance: twice as many latents)."""
    forward = denoiser.forward

    def fails(sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if sample.shape[0] > 2 * above:
            seen.append(weakref.ref(sample))
            raise error
        return forward(sample, *rest, **options)

    return fails


def test_after_running_out_of_memory_nothing_holds_the_batchs_tensors(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = models.load("sd")
    seen: list[Any] = []
    out = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(model.pipeline.unet, "forward", _raising(model.pipeline.unet, out, above=2, seen=seen))
    with pytest.raises(OutOfMemory) as caught:
        model.render(models.specs("sd", 4), lambda: None)
    # The exception that we gave to the mock, and so its traceback, is ours.
    out.__traceback__ = None
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    gc.collect()
    assert [reference() for reference in seen] == [None]
    assert len(model.render(models.specs("sd", 2), lambda: None).pictures) == 2


def test_a_pipeline_that_saves_memory_says_so_in_the_recipe(models: Models) -> None:
    model: Any = models.load("sd")
    before = model.render(models.specs("sd", 2), lambda: None)
    assert model.save_memory()
    assert not model.save_memory()
    after = model.render(models.specs("sd", 2), lambda: None)
    assert "vae" not in before.recipe
    assert after.recipe["vae"] == "sliced and tiled"
    assert len(after.pictures) == 2


def test_a_pipeline_without_a_vae_of_its_own_cannot_save_memory(models: Models) -> None:
    assert not models.load("kandinsky").save_memory()


def test_loading_that_runs_out_of_memory_is_told_from_weights_that_are_not_there(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = models.registry["sd"]
    assert isinstance(model, DiffusersModel)
    with pytest.raises(ModelUnavailable) as missing:
        models.backend.load(model.model_copy(update={"source": str(tmp_path)}))
    assert missing.value.fault is Fault.BAD_WEIGHTS

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("worker.rendering.diffusers_backend.tune", full)
    with pytest.raises(ModelUnavailable) as short:
        models.backend.load(model)
    assert short.value.fault is Fault.OUT_OF_MEMORY
