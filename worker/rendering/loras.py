"""The LoRAs of one pipeline: each is loaded on its first use, then switched on and off per batch."""

import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils.peft_utils import set_adapter_layers, set_weights_and_activate_adapters
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed
from storage.spec.model_files import not_found, public_source, without_folders
from storage.spec.models import Lora
from worker.rendering.lora_conversion import check_modules, converted
from worker.rendering.lora_files import DOWN, MAGNITUDE, Tensors, by_component, lora_file, read_tensors, written_config
from worker.rendering.module_state import ModuleState
from worker.rendering.torch_faults import as_fault
from worker.rendering.weights import hash_named


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    #: The farm's own: an alias may be the name of a module's method, which no adapter may have.
    adapter: str
    #: Hash of the file's tensors.
    weights: str
    #: Whether it is a DoRA.
    has_magnitudes: bool


class LoraAdapters:
    """The LoRAs that one pipeline can use."""

    def __init__(
        self, pipeline: Any, known: Mapping[str, Lora], *, offload_again: Callable[[], None] | None = None
    ) -> None:
        """
        Args:
            offload_again: how an offloaded pipeline is offloaded: its layers cannot be changed while it is.
        """
        self._pipeline = pipeline
        self._known = known
        self._offload_again = offload_again
        self._loaded: dict[str, _Loaded] = {}
        #: Those that are on, and their scales; None: it is not known.
        self._on: Mapping[str, float] | None = None

    def switch(self, scales: Mapping[str, float]) -> None:
        """Use exactly these LoRAs (alias → scale).

        Raises:
            RenderFailed: one of them cannot be loaded, or not be used so; the pipeline is as it was before.
            OutOfMemory, DeviceBroken: as `LoadedModel.render`.
        """
        if self._on is not None and list(self._on.items()) == list(scales.items()):
            # A walk through all modules otherwise, at every step.
            return
        self._on = None
        for alias in scales.keys() - self._loaded.keys():
            self._load(alias)
        for alias, scale in scales.items():
            if scale != 1 and self._loaded[alias].has_magnitudes:
                raise RenderFailed(
                    f"loras: {alias} is a DoRA, whose magnitudes have no scale: its scale must be 1 (given: {scale:g})"
                )
        if not self._loaded:
            self._on = {}
            return
        adapters = [self._loaded[alias].adapter for alias in scales]
        for component in self._components():
            set_adapter_layers(component, enabled=bool(scales))
            if scales:
                set_weights_and_activate_adapters(component, adapters, list(scales.values()))
        self._on = dict(scales)

    def recipe(self, scales: Mapping[str, float]) -> dict[str, Any]:
        """Return what the recipe says of pictures that are rendered with these LoRAs, by alias."""
        return {
            alias: {"scale": scale, "weights": self._loaded[alias].weights} for alias, scale in sorted(scales.items())
        }

    def _components(self) -> Iterator[torch.nn.Module]:
        """Yield the parts of the pipeline that LoRAs may change."""
        for name in self._pipeline._lora_loadable_modules:
            component = getattr(self._pipeline, name, None)
            if component is not None:
                yield component

    def _load(self, alias: str) -> None:
        if alias not in self._known:
            raise RenderFailed(f"loras: no LoRA named {alias!r} is registered on this worker")
        lora = self._known[alias]
        if not_found(lora):
            raise RenderFailed(
                f"loras: {alias} cannot be loaded: there is no {public_source(lora)} where this machine's registry says"
            )
        if self._offload_again is not None:
            self._pipeline.remove_all_hooks()
        before = ModuleState(self._components())
        adapter = f"farm{len(self._loaded)}"
        try:
            with warnings.catch_warnings():
                # PEFT warns of a second adapter, which is meant.
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                self._loaded[alias] = self._added(adapter, lora)
        except BaseException as error:
            # A loader can raise anything, and leaves behind what it has done until then; so does who interrupts it.
            before.restore()
            if not isinstance(error, Exception):
                raise
            fault = as_fault(error)
            if isinstance(fault, OutOfMemory | DeviceBroken):
                raise fault from None
            raise RenderFailed(
                f"loras: {alias} ({public_source(lora)}) cannot be loaded: {without_folders(_line(error), lora)}"
            ) from error
        finally:
            if self._offload_again is not None:
                self._offload_again()

    def _added(self, adapter: str, lora: Lora) -> _Loaded:
        """Add a LoRA to the pipeline as an adapter. Raises ValueError if some of it cannot be applied."""
        file = lora_file(lora)
        raw = read_tensors(file)
        of_stable_diffusion = isinstance(
            self._pipeline, StableDiffusionLoraLoaderMixin | StableDiffusionXLLoraLoaderMixin
        ) and hasattr(self._pipeline, "unet")
        parts = by_component(self._pipeline, raw) if of_stable_diffusion else converted(self._pipeline, raw)
        config = written_config(file)
        if any(".lokr_" in name for tensors in parts.values() for name in tensors):
            for name, tensors in parts.items():
                check_modules(tensors, getattr(self._pipeline, name), name)
            self._pipeline.load_lora_weights(str(file), adapter_name=adapter, use_safetensors=True)
        else:
            for name, tensors in parts.items():
                written = {key.removeprefix(f"{name}."): value for key, value in config.items()}
                _inject(getattr(self._pipeline, name), adapter, tensors, written)
        if not any(f".{adapter}" in name for part in self._components() for name, _ in part.named_parameters()):
            raise ValueError("nothing in it is for this model")
        return _Loaded(
            adapter=adapter,
            weights=hash_named(raw),
            has_magnitudes=any(MAGNITUDE in name for part in [raw, *parts.values()] for name in part),
        )


def _line(error: Exception) -> str:
    """Put what a loader said into one line of a bearable length."""
    return textwrap.shorten(" ".join(str(error).split()) or type(error).__name__, 400, placeholder=" …")


def _inject(component: torch.nn.Module, adapter: str, tensors: Tensors, written: Mapping[str, Any]) -> None:
    """Add an adapter to a component. Raises ValueError if a tensor has no place.

    By PEFT itself: while Transformers loads an adapter, it makes the text encoder's earlier ones anew, at random.
    """
    ranks = {name.removesuffix(DOWN): len(tensor) for name, tensor in tensors.items() if name.endswith(DOWN)}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    unusual = {f"^{name}": rank for name, rank in ranks.items() if rank != usual}
    options: dict[str, Any] = {"r": usual, "lora_alpha": usual, "rank_pattern": unusual, "alpha_pattern": unusual}
    options |= {name: written[name] for name in (*options, "use_rslora") if name in written}
    config = LoraConfig(
        **options,
        # Exactly these: of a list, PEFT takes names for endings, too.
        target_modules="|".join(map(re.escape, ranks)),
        use_dora=any(name.endswith(MAGNITUDE) for name in tensors),
        lora_bias=any(name.endswith(".lora_B.bias") for name in tensors),
    )
    inject_adapter_in_model(config, component, adapter_name=adapter)
    result: Any = set_peft_model_state_dict(component, tensors, adapter_name=adapter)
    added = [name for name, _ in component.named_parameters() if f".{adapter}" in name]
    if result.unexpected_keys or len(added) != len(tensors):
        raise ValueError(
            f"of its {len(tensors)} tensors for {type(component).__name__}, {len(added)} have a place in it"
        )
