"""The LoRAs of one pipeline: each is loaded on its first use, then switched on and off per batch."""

import warnings
from collections.abc import Mapping
from typing import Any

from storage.errors import RenderFailed
from storage.spec.models import Lora
from worker.rendering.weights import hash_named


class LoraAdapters:
    """The LoRAs that one pipeline can use."""

    def __init__(self, pipeline: Any, known: Mapping[str, Lora]) -> None:
        self._pipeline = pipeline
        self._known = known
        #: By alias, the hash of the weights that were loaded.
        self._loaded: dict[str, str] = {}

    def switch(self, scales: Mapping[str, float]) -> None:
        """Use exactly these LoRAs (alias → scale). Raises RenderFailed if one cannot be loaded."""
        for alias in scales.keys() - self._loaded.keys():
            self._load(alias)
        if scales:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters(list(map(_adapter, scales)), adapter_weights=list(scales.values()))
        elif self._loaded:
            self._pipeline.disable_lora()

    def recipe(self, scales: Mapping[str, float]) -> dict[str, Any]:
        """Return what the recipe says of pictures that are rendered with these LoRAs, by alias."""
        return {alias: {"scale": scale, "weights": self._loaded[alias]} for alias, scale in sorted(scales.items())}

    def _load(self, alias: str) -> None:
        if alias not in self._known:
            raise RenderFailed(f"loras: no LoRA named {alias!r} is registered on this worker")
        lora = self._known[alias]
        found = {"revision": lora.revision, "weight_name": lora.weight_name, "use_safetensors": True}
        try:
            with warnings.catch_warnings():
                # PEFT warns of a second adapter, which is meant.
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                # Pipelines that read more than tensors from the file return those first.
                read = self._pipeline.lora_state_dict(lora.source, **found)
                weights = hash_named(read[0] if isinstance(read, tuple) else read)
                self._pipeline.load_lora_weights(lora.source, adapter_name=_adapter(alias), **found)
        except Exception as error:
            # A loader can raise anything; this LoRA cannot be used with this model, and the message says why.
            raise RenderFailed(f"loras: {alias} ({lora.source}) cannot be loaded: {error}") from error
        self._loaded[alias] = weights


def _adapter(alias: str) -> str:
    """Name the adapter without dots: PyTorch takes those in module names for paths."""
    return alias.replace(".", "_")
