"""The Diffusers backend: pipelines made by `AutoPipelineForText2Image`, or from a loaded one of the same weights."""

import logging
import platform
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
import transformers
from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline

from storage.errors import DeviceBroken, ModelUnavailable, OutOfMemory
from storage.spec.model_files import not_found, public_source, without_folders
from storage.spec.models import DiffusersModel, Model, Weights
from worker.devices import Device
from worker.rendering.backend import BackendResources, LoadedModel
from worker.rendering.loras import LoraAdapters, lora_adapters
from worker.rendering.pipeline import LoadedPipeline, one_or_all
from worker.rendering.safety import SafetyChecker
from worker.rendering.torch_faults import as_fault
from worker.rendering.tuning import ALL_PARTS, is_offloaded, place, release_memory, tune
from worker.rendering.weights import WeightHashes, folder_of

log = logging.getLogger(__name__)

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


class DiffusersBackend:
    """Diffusers pipelines on one device."""

    def __init__(self, device: Device, resources: BackendResources) -> None:
        self._device = device
        self._inputs = resources.inputs
        self._loras = resources.loras
        self._hashes = WeightHashes(resources.home / "weights.json")
        #: As many as the process started with; None on a device whose pictures do not depend on them.
        self._threads = torch.get_num_threads() if device.kind == "cpu" else None

    def load(self, model: Model, *, shared: LoadedModel | None = None) -> LoadedModel:
        if not isinstance(model, DiffusersModel):
            raise TypeError(f"{model.alias} is not a diffusers model")
        if gone := not_found(model):
            # Diffusers would look for it on the hub, and blame the connection.
            log.error("folders of a model are not there", extra={"model": model.alias, "folders": ", ".join(gone)})
            missing = without_folders(", ".join(gone), model)
            raise ModelUnavailable(
                f"model {model.alias} cannot be loaded: there is no {missing} on this machine where its registry says "
                f"(`farm models show {model.alias}`)"
            )
        try:
            return self._load(model, shared if isinstance(shared, LoadedPipeline) else None)
        except Exception as error:
            # A loader can raise anything; the message says why.
            fault = as_fault(error)
            if isinstance(fault, DeviceBroken):
                raise fault from None
            raise ModelUnavailable(
                f"model {model.alias} ({public_source(model)}) cannot be loaded: {without_folders(str(error), model)}",
                out_of_memory=isinstance(fault, OutOfMemory),
            ) from error

    def needed_memory(self, model: Model) -> int:
        """Return the size of the weights as they will be loaded and a fifth more, for what pictures take."""
        if not isinstance(model, DiffusersModel):
            raise TypeError(f"{model.alias} is not a diffusers model")
        files = [file for file in Path(folder_of(model)).glob("*/*.safetensors") if _is_loaded(file, model.variant)]
        return sum(file.stat().st_size for file in files) * 6 // 5

    def available_memory(self) -> int:
        if self._device.kind == "cuda":
            free, _ = torch.cuda.mem_get_info()
            return free
        return int(psutil.virtual_memory().available)

    def release_memory(self) -> None:
        release_memory()

    def hardware_name(self) -> str:
        if self._device.kind == "cuda":
            return str(torch.cuda.get_device_name())
        return f"{self._device.kind} {platform.machine()}"

    def _load(self, model: DiffusersModel, shared: LoadedPipeline | None) -> LoadedPipeline:
        dtype = _dtype(model, self._device)
        pipeline = _pipeline(model, dtype, shared)
        # Hashed before it is offloaded or compiled.
        weights = self._hashes.of(model, dtype, pipeline)
        safety = shared.safety if shared else SafetyChecker(pipeline) if model.safety_checker else None
        tune(pipeline, model, self._device, parts={"controlnet"} if shared else ALL_PARTS)
        return LoadedPipeline(
            pipeline,
            model,
            inputs=self._inputs,
            adapters=shared.adapters if shared else self._adapters(pipeline, model),
            safety=safety,
            recipe={
                "kind": model.kind,
                "pipeline": type(pipeline).__name__,
                "source": public_source(model),
                "revision": model.revision,
                "variant": model.variant,
                "weights": weights,
                "dtype": str(dtype).removeprefix("torch."),
                "device": self.hardware_name(),
                "threads": self._threads,
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
            },
        )

    def _adapters(self, pipeline: Any, model: DiffusersModel) -> LoraAdapters:
        again = partial(place, pipeline, model, self._device) if is_offloaded(model, self._device) else None
        return lora_adapters(pipeline, self._loras, compiled=model.compile != "none", offload_again=again)


def _pipeline(model: DiffusersModel, dtype: torch.dtype, shared: LoadedPipeline | None) -> Any:
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
        # Left in, it would silently turn what it flags into black squares.
        extra["safety_checker"] = None
    return _opened(AutoPipelineForText2Image, model, dtype=dtype, **extra)


def _is_loaded(file: Path, variant: str | None) -> bool:
    _, *middle = file.stem.split(".")
    return middle == ([variant] if variant else [])


def _opened(kind: Any, weights: Weights, **options: Any) -> Any:
    """Return a pipeline or ControlNet made by `from_pretrained`."""
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
