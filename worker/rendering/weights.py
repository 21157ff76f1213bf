"""Which weights made a picture: a hash of the tensors themselves, computed once and kept."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from storage.spec.file_hashes import hash_whole
from storage.spec.file_state import file_state
from storage.spec.model_files import named_folder
from storage.spec.models import DiffusersModel, Weights

log = logging.getLogger(__name__)


def folder_of(weights: Weights) -> str:
    """Return where weights are, as Diffusers understands it: a folder or a hub id."""
    return str(named_folder(weights) or weights.source)


class WeightHashes:
    """Hashes of weights by their origin, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def of_file(self, weights: Weights, *, unchanged: Callable[[], bool]) -> str:
        """Return the SHA-256 of a single file; it is kept if the file was `unchanged` since before it was loaded."""
        key = json.dumps(["file", *_origin(weights)[:2]])
        return self._known_or(key, lambda: hash_whole(Path(folder_of(weights))), unchanged)

    def of(self, model: DiffusersModel, dtype: torch.dtype, pipeline: Any, *, unchanged: Callable[[], bool]) -> str:
        """Return the hash of a model's weights as loaded, in its precision, including its ControlNets.

        It is kept if its files were `unchanged` since before they were loaded: it would be told of others for ever.
        """
        key = json.dumps([str(dtype), *map(_origin, model.parts)])
        return self._known_or(key, lambda: hash_tensors(pipeline), unchanged)

    def _known_or(self, key: str, computed: Callable[[], str], unchanged: Callable[[], bool]) -> str:
        known = self._read()
        if key not in known:
            known[key] = computed()
            # After it was computed, and after the key was made of the files' states.
            if unchanged():
                self._write(known)
        return known[key]

    def _read(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            log.warning("damaged file: hashes of weights are computed again", extra={"file": self._file})
            return {}
        return found

    def _write(self, known: dict[str, str]) -> None:
        # Several workers may share the folder; what one of them overwrites is computed again.
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(known, indent=1))
        unfinished.replace(self._file)


def hash_tensors(pipeline: Any) -> str:
    """Return the SHA-256 of every component's parameters and buffers: names, types, shapes and bytes, sorted by name.

    A LoRA inside shared parts does not count: it is switched on per picture, and the recipe names it.
    """
    return hash_named(
        {
            f"{part}.{name.replace('.base_layer.', '.')}": tensor
            for part, module in pipeline.components.items()
            if isinstance(module, torch.nn.Module)
            for name, tensor in module.state_dict().items()
            if ".lora_" not in name
        }
    )


def hash_named(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of tensors: names, types, shapes and bytes, sorted by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes: NumPy does not know every dtype.
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _origin(weights: Weights) -> list[Any]:
    """Return what changes when a source's weights do: a commit of the hub, or the files' states."""
    folder = Path(folder_of(weights))
    if weights.is_single_file:
        return [str(folder.absolute()), file_state(folder), weights.config]
    if folder.is_dir():
        stamps = sorted((str(file.relative_to(folder)), file_state(file)) for file in folder.rglob("*.safetensors"))
        return [str(folder.absolute()), weights.variant, stamps]
    for name in ("model_index.json", "config.json"):
        cached = try_to_load_from_cache(weights.source, name, revision=weights.revision)
        if isinstance(cached, str):
            return [weights.source, weights.variant, Path(cached).parent.name]
    return [weights.source, weights.variant, weights.revision]
