"""The Diffusers backend: pipelines made by `AutoPipelineForText2Image`, or from a loaded one of the same weights."""

import logging
import platform
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
import transformers
from diffusers import AutoencoderKL, AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline

from storage.errors import DeviceBroken, ModelUnavailable, OutOfMemory
from storage.spec.file_hashes import hash_of_a_part
from storage.spec.loaded_size import count_parameters
from storage.spec.model_files import configuration_folder, not_found, own_pipeline, public_source, without_folders
from storage.spec.model_states import FileStates, agree, file_states
from storage.spec.models import DiffusersModel, Model, Weights
from storage.spec.profiles import Profile, asks_for_pag, profile_of
from storage.spec.wrong_folders import variant_of, wrong_in_folder
from worker.devices import Device
from worker.rendering.backend import BackendResources, LoadedModel
from worker.rendering.embeddings import EmbeddingWords
from worker.rendering.loras import LoraAdapters, lora_adapters
from worker.rendering.own_memory import copy_parts
from worker.rendering.pipeline import LoadedPipeline, one_or_all
from worker.rendering.prompts import Prompts
from worker.rendering.safety import SafetyChecker
from worker.rendering.single_files import controlnet_from_file, pipeline_from_file, vae_from_file
from worker.rendering.torch_faults import as_fault
from worker.rendering.tuning import ALL_PARTS, is_offloaded, place, release_memory, tune
from worker.rendering.weights import WeightHashes, folder_of

log = logging.getLogger(__name__)

#: How often to load a model whose files are replaced meanwhile.
_TRIES = 3

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


class DiffusersBackend:
    """Diffusers pipelines on one device."""

    def __init__(self, device: Device, resources: BackendResources) -> None:
        self._device = device
        self._inputs = resources.inputs
        self._loras = resources.loras
        self._embeddings = resources.embeddings
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
        default_dtype = torch.get_default_dtype()
        try:
            return self._load_unchanged(model, shared if isinstance(shared, LoadedPipeline) else None)
        except Exception as error:
            # A loader can raise anything; the message says why.
            fault = as_fault(error)
            if isinstance(fault, DeviceBroken):
                raise fault from None
            raise ModelUnavailable(
                f"model {model.alias} ({public_source(model)}) cannot be loaded: {without_folders(str(error), model)}",
                out_of_memory=isinstance(fault, OutOfMemory),
            ) from error
        finally:
            # Diffusers makes a part in the model's precision by changing that of the process, and leaves it so where it
            # fails: later models could compute some of their numbers in half precision.
            torch.set_default_dtype(default_dtype)

    def needed_memory(self, model: Model) -> int:
        """Return the size of the weights as they will be loaded and a fifth more, for what pictures take."""
        if not isinstance(model, DiffusersModel):
            raise TypeError(f"{model.alias} is not a diffusers model")
        dtype = _dtype(model, self._device, own_pipeline(model))
        return sum(_bytes_of(weights, dtype) for weights in model.parts) * 6 // 5

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

    def _load_unchanged(self, model: DiffusersModel, shared: LoadedPipeline | None) -> LoadedPipeline:
        """Load a model from files that stay what they are meanwhile: what a recipe says of them is of what was loaded.

        Raises whatever a loader does, and ValueError if they are others each time.
        """
        for _ in range(_TRIES):
            files = file_states(model)
            loaded = self._load(model, shared if shared is not None and agree(shared.files, files) else None, files)
            if file_states(model) == files:
                loaded.files = files
                return loaded
            del loaded
            release_memory()
        raise ValueError(f"its files were replaced while they were read, {_TRIES} times")

    def _load(self, model: DiffusersModel, shared: LoadedPipeline | None, files: FileStates) -> LoadedPipeline:
        def unchanged() -> bool:
            return file_states(model) == files

        single = model.is_single_file
        if wrong := wrong_in_folder(model):
            raise ValueError(wrong)
        index = {} if single else DiffusionPipeline.load_config(folder_of(model), revision=model.revision)
        class_name = index.get("_class_name") or own_pipeline(model)
        _check_packages(class_name)
        dtype = _dtype(model, self._device, class_name)
        pipeline = _pipeline(model, index, dtype, shared)
        if self._device.kind == "cpu" or is_offloaded(model, self._device):
            # What goes to a device is copied by that; what is shared was copied before.
            copy_parts(part for name, part in pipeline.components.items() if name == "controlnet" or not shared)
        # Hashed before it is offloaded or compiled.
        weights = self._hashes.of(model, dtype, pipeline, unchanged=unchanged)
        safety = shared.safety if shared else SafetyChecker(pipeline) if model.safety_checker else None
        tune(pipeline, model, self._device, parts={"controlnet"} if shared else ALL_PARTS)
        words = shared.words if shared else EmbeddingWords(pipeline, self._embeddings)
        return LoadedPipeline(
            pipeline,
            model,
            prompts=Prompts(pipeline, self._inputs, words),
            adapters=shared.adapters if shared else self._adapters(pipeline, model),
            safety=safety,
            recipe={
                "kind": model.kind,
                "pipeline": type(pipeline).__name__,
                "source": public_source(model),
                "revision": model.revision,
                "variant": model.variant,
                **({} if model.vae is None else {"vae_source": public_source(model.vae)}),
                **self._files(model, unchanged),
                "weights": weights,
                "dtype": str(dtype).removeprefix("torch."),
                "device": self.hardware_name(),
                "threads": self._threads,
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
            },
        )

    def _files(self, model: DiffusersModel, unchanged: Callable[[], bool]) -> dict[str, Any]:
        """Return what galleries are told of a model's own files: names of ControlNets, hashes of single files."""
        hashes = {
            name: self._hashes.of_file(part, unchanged=unchanged)
            for name, part in (("sha256", model), ("vae_sha256", model.vae))
            if part is not None and part.is_single_file
        }
        names = [_name_and_hash(part) for part in model.controlnets]
        return {**hashes, **({"controlnets": names} if names else {})}

    def _adapters(self, pipeline: Any, model: DiffusersModel) -> LoraAdapters:
        again = partial(place, pipeline, model, self._device) if is_offloaded(model, self._device) else None
        return lora_adapters(pipeline, self._loras, compiled=model.compile != "none", offload_again=again)


def _name_and_hash(weights: Weights) -> str:
    """Return what the web UI's ControlNet extension calls a model: its name and, of one file, a hash."""
    if not weights.is_single_file:
        return public_source(weights)
    file = Path(folder_of(weights))
    return f"{file.stem} [{hash_of_a_part(file)}]"


def _bytes_of(weights: Weights, dtype: torch.dtype) -> int:
    """Return the bytes that weights take in memory; 0 where they are not on this machine."""
    if weights.is_single_file:
        try:
            return count_parameters(weights) * dtype.itemsize
        except (OSError, ValueError):
            return 0
    files = [file for file in Path(folder_of(weights)).glob("*/*.safetensors") if _is_loaded(file, weights.variant)]
    return sum(file.stat().st_size for file in files)


def _pipeline(
    model: DiffusersModel, index: Mapping[str, Any], dtype: torch.dtype, shared: LoadedPipeline | None
) -> Any:
    controlnets = [_controlnet(weights, model, dtype) for weights in model.controlnets]
    if shared is not None:
        # Its present sampler is that of its last batch; its ControlNet is not ours.
        kind: Any = _opener(type(shared.pipeline).__name__)
        return (type(shared.pipeline) if kind is DiffusionPipeline else kind).from_pipe(
            shared.pipeline,
            scheduler=shared.own_scheduler,
            **({} if kind is DiffusionPipeline else {"controlnet": one_or_all(controlnets) if controlnets else None}),
        )
    vae = {} if model.vae is None else {"vae": _vae(model.vae, model, dtype)}
    if model.is_single_file:
        if asks_for_pag(model.pipeline):
            raise ValueError("perturbed attention (PAG) needs a folder in Diffusers layout, and this is a single file")
        alone = pipeline_from_file(model, dtype, **vae)
        return AutoPipelineForText2Image.from_pipe(alone, controlnet=one_or_all(controlnets)) if controlnets else alone
    extra = {"controlnet": one_or_all(controlnets), **vae} if controlnets else vae
    if not model.safety_checker and "safety_checker" in index:
        # Left in, it would silently turn what it flags into black squares.
        extra["safety_checker"] = None
    if asks_for_pag(model.pipeline) and not asks_for_pag(index.get("_class_name")):
        # The folder is of the plain pipeline; the entry wants its attention perturbed.
        extra["enable_pag"] = True
    return _opened(_opener(index.get("_class_name")), model, dtype=dtype, **extra)


def _check_packages(pipeline: str | None) -> None:
    """Raise ValueError where a package is missing that pipelines of this class import as late as when they draw."""
    profile = profile_of(pipeline) or Profile()
    if absent := [name for name in profile.packages if find_spec(name) is None]:
        raise ValueError(
            f"a {pipeline} needs {' and '.join(absent)}, not installed on this machine: pip install {' '.join(absent)}"
        )


def _opener(pipeline: str | None) -> Any:
    profile = profile_of(pipeline)
    by_its_own_class = profile is not None and profile.opened_by == "DiffusionPipeline"
    return DiffusionPipeline if by_its_own_class else AutoPipelineForText2Image


def _controlnet(weights: Weights, model: DiffusersModel, dtype: torch.dtype) -> Any:
    if weights.is_single_file:
        return controlnet_from_file(weights, model, dtype)
    return _opened(ControlNetModel, weights, dtype=dtype)


def _vae(weights: Weights, model: DiffusersModel, dtype: torch.dtype) -> Any:
    """Return another VAE for a model. Raises ValueError if the model's latents are not its own."""
    if weights.is_single_file:
        vae = vae_from_file(weights, model, dtype)
    else:
        # A whole pipeline's is one of its parts.
        part = {"subfolder": "vae"} if (configuration_folder(weights) / "model_index.json").is_file() else {}
        vae = _opened(AutoencoderKL, weights, dtype=dtype, **part)
    folder = str(configuration_folder(model)) if model.is_single_file else folder_of(model)
    own = AutoencoderKL.load_config(folder, subfolder="vae", revision=model.revision)
    if (own["_class_name"], own.get("latent_channels", 4)) != ("AutoencoderKL", vae.config.latent_channels):
        raise ValueError(f"vae: {public_source(weights)} has other latents than this model's {own['_class_name']}")
    return vae


def _is_loaded(file: Path, variant: str | None) -> bool:
    return variant_of(file) == variant


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


def _dtype(model: DiffusersModel, device: Device, pipeline: str | None) -> torch.dtype:
    """Return the precision to load a model in. Raises ValueError if pipelines of this class cannot draw in it."""
    profile = profile_of(pipeline) or Profile()
    # Half precision is slow or missing on CPUs.
    best = "float32" if device.kind == "cpu" else profile.half
    name = best if model.dtype == "auto" else model.dtype
    if name in profile.refused_dtypes:
        raise ValueError(f"a {pipeline} cannot draw in {name}; edit its entry (dtype)")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
