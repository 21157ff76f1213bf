"""Loading Diffusers pipelines: through `AutoPipelineForText2Image`, or from one that holds the same weights."""

from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
import transformers
from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline

from storage.errors import DeviceBroken, ModelUnavailable, OutOfMemory
from storage.spec.models import DiffusersModel, Model, Weights
from worker.devices import Device
from worker.rendering.backend import Renderer, Supplies, hardware_name
from worker.rendering.loras import LoraAdapters
from worker.rendering.pipeline import PipelineRenderer, one_or_all
from worker.rendering.safety import SafetyChecker
from worker.rendering.torch_faults import as_fault
from worker.rendering.tuning import ALL_PARTS, tune
from worker.rendering.weights import WeightHashes, folder_of

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def load(model: Model, device: Device, supplies: Supplies, base: Renderer | None = None) -> Renderer:
    """Load a model; with `base`, a renderer of the same weights (`Model.base`), only what that one lacks.

    Raises ModelUnavailable if the weights cannot be found or loaded, DeviceBroken.
    """
    if not isinstance(model, DiffusersModel):
        raise TypeError(f"{model.alias} is not a diffusers model")
    dtype = _dtype(model, device)
    shared = base if isinstance(base, PipelineRenderer) else None
    try:
        pipeline = _pipeline(model, dtype, shared)
        # Before it is offloaded or compiled.
        weights = WeightHashes(supplies.home / "weights.json").of(model, dtype, pipeline)
        safety = shared.safety if shared else SafetyChecker(pipeline) if model.safety_checker else None
        tune(pipeline, model, device, parts={"controlnet"} if shared else ALL_PARTS)
    except Exception as error:
        # Whatever a loader raises, the model is not there; the message says why.
        fault = as_fault(error)
        if isinstance(fault, DeviceBroken):
            raise fault from None
        raise ModelUnavailable(
            f"model {model.alias} ({model.source}) cannot be loaded: {error}",
            out_of_memory=isinstance(fault, OutOfMemory),
        ) from error
    return PipelineRenderer(
        pipeline,
        model,
        inputs=supplies.inputs,
        adapters=shared.adapters if shared else LoraAdapters(pipeline, supplies.loras),
        safety=safety,
        recipe={
            "kind": model.kind,
            "pipeline": type(pipeline).__name__,
            "source": model.source,
            "revision": model.revision,
            "variant": model.variant,
            "weights": weights,
            "dtype": str(dtype).removeprefix("torch."),
            "device": hardware_name(device),
            "threads": torch.get_num_threads() if device.kind == "cpu" else None,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    )


def _pipeline(model: DiffusersModel, dtype: torch.dtype, shared: PipelineRenderer | None) -> Any:
    controlnets = [_opened(ControlNetModel, weights, dtype=dtype) for weights in model.controlnets]
    if shared is not None:
        # Its present sampler is that of its last batch; its ControlNet is not ours.
        return AutoPipelineForText2Image.from_pipe(
            shared.pipeline,
            scheduler=shared.own_scheduler,
            controlnet=one_or_all(controlnets) if controlnets else None,
        )
    extra = {"controlnet": one_or_all(controlnets)} if controlnets else {}
    index = DiffusionPipeline.load_config(folder_of(model), revision=model.revision)
    if not model.safety_checker and "safety_checker" in index:
        # Left in, it would turn what it flags into black squares, silently.
        extra["safety_checker"] = None
    return _opened(AutoPipelineForText2Image, model, dtype=dtype, **extra)


def needed(model: DiffusersModel) -> int:
    """Bytes of the weights as they will be loaded, a fifth added for what pictures take; 0 if they are not here yet."""
    files = [file for file in Path(folder_of(model)).glob("*/*.safetensors") if _is_loaded(file, model.variant)]
    return sum(file.stat().st_size for file in files) * 6 // 5


def _is_loaded(file: Path, variant: str | None) -> bool:
    _, *middle = file.stem.split(".")
    return middle == ([variant] if variant else [])


def room(device: Device) -> int:
    """Bytes that are free on the device."""
    if device.kind == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free
    return int(psutil.virtual_memory().available)


def cuda_name() -> str:
    """What the driver calls the device that this process is pinned to."""
    return str(torch.cuda.get_device_name())


def _opened(kind: Any, weights: Weights, **options: Any) -> Any:
    """A pipeline or ControlNet `from_pretrained`."""
    return kind.from_pretrained(
        folder_of(weights),
        revision=weights.revision,
        variant=weights.variant,
        # Pickled weights can carry code.
        use_safetensors=True,
        **options,
    )


def _dtype(model: DiffusersModel, device: Device) -> torch.dtype:
    if model.dtype != "auto":
        dtype: torch.dtype = getattr(torch, model.dtype)
        return dtype
    # Half precision is slow or missing on CPUs.
    return torch.float32 if device.kind == "cpu" else torch.float16
