"""The LoRAs of one pipeline: each is loaded on its first use, then switched on and off per batch, picture or row."""

import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils.peft_utils import delete_adapter_layers, set_adapter_layers, set_weights_and_activate_adapters
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

from storage.errors import RenderFailed
from storage.spec.file_hashes import hash_past_header
from storage.spec.models import Lora
from worker.rendering.lora_conversion import check_modules, converted
from worker.rendering.lora_files import DOWN, MAGNITUDE, Tensors, lora_file, read_tensors, written_config
from worker.rendering.lora_layers import LoraLayers
from worker.rendering.lora_set import LoraSet, LoraShelf, lora_state, named, not_loaded
from worker.rendering.module_state import ModuleState
from worker.rendering.own_memory import copy_to_memory
from worker.rendering.weights import hash_named

#: Of PEFT's adapters, which are in the model's layers and on its device.
_MOST_ADAPTERS = 8


class LoraAdapters(Protocol):
    """The LoRAs that one pipeline can use."""

    def switch(self, scales: Mapping[str, float]) -> None:
        """Use exactly these LoRAs (alias → scale) in all calls that follow.

        Raises:
            RenderFailed: one of them cannot be loaded, or not be used so; the pipeline is as it was before.
            OutOfMemory, DeviceBroken: as `LoadedModel.render`.
        """
        ...

    def recipe(self, scales: Mapping[str, float]) -> dict[str, Any]:
        """Return what the recipe says of pictures that are rendered with these LoRAs, by alias."""
        ...


def lora_adapters(
    pipeline: Any,
    known: Mapping[str, Lora],
    *,
    compiled: bool = False,
    offload_again: Callable[[], None] | None = None,
) -> LoraAdapters:
    """Return the way in which a pipeline uses LoRAs.

    Args:
        compiled: whether the UNet is compiled.
        offload_again: how an offloaded pipeline is offloaded: its layers cannot be changed while it is.
    """
    of_stable_diffusion = isinstance(pipeline, StableDiffusionLoraLoaderMixin | StableDiffusionXLLoraLoaderMixin)
    if of_stable_diffusion and hasattr(pipeline, "unet"):
        return UNetAdapters(pipeline, known, compiled=compiled, offload_again=offload_again)
    return PeftAdapters(pipeline, known, offload_again=offload_again)


class UNetAdapters:
    """LoRAs of Stable Diffusion, SDXL and their like, whose rows of a call may each have others."""

    def __init__(
        self,
        pipeline: Any,
        known: Mapping[str, Lora],
        *,
        compiled: bool = False,
        offload_again: Callable[[], None] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._known = known
        self._offload_again = offload_again
        self._shelf = LoraShelf(pipeline, lambda: self._known)
        #: What the recipe says of those that were used.
        self._said: dict[str, dict[str, Any]] = {}
        self._components = {
            name: LoraLayers(name, component, compiled=compiled and name == "unet" and bool(known))
            for name in pipeline._lora_loadable_modules
            if (component := getattr(pipeline, name, None)) is not None
        }

    def when_changed(self, forget: Callable[[], None]) -> None:
        """Have this called whenever a LoRA's file is another than it was."""
        self._shelf.when_changed = forget

    def get(self, scales: Mapping[str, float] | None) -> LoraSet | None:
        """Return LoRAs (alias → scale) to be used together; None: no LoRAs. Raises as `switch` does."""
        if not scales:
            return None
        found = self._shelf.get(scales)
        self._said |= found.recipe()
        return found

    def switch(self, scales: Mapping[str, float]) -> None:
        self._use(self.get(scales), self._components)

    def use(self, loras: LoraSet | None) -> None:
        """Use exactly these for all rows of the calls that follow."""
        self._use(loras, self._components)

    def use_for_text(self, loras: LoraSet | None) -> None:
        """Encode the prompts that follow with exactly these."""
        self._use(loras, [name for name in self._components if name != "unet"])

    def use_by_row(self, sets: Sequence[LoraSet | None], row_of: Sequence[int], rank: int | None = None) -> int | None:
        """Give each row of the UNet's next call its own LoRAs, as `LoraLayers.use_by_row` does."""
        return self._components["unet"].use_by_row(sets, row_of, rank)

    def make_room(self, sets: Sequence[LoraSet | None]) -> None:
        """Have a place for each of these sets at once, whichever of them the UNet's next calls use by row."""
        self._components["unet"].make_room(sets)

    def recipe(self, scales: Mapping[str, float]) -> dict[str, Any]:
        return {alias: self._said[alias] | {"scale": scale} for alias, scale in sorted(scales.items())}

    def _use(self, loras: LoraSet | None, names: Sequence[str] | Mapping[str, Any]) -> None:
        components = [self._components[name] for name in names]
        if loras is None:
            for component in components:
                component.off()
            return
        aside = self._offload_again is not None and loras.has_full
        if aside:
            # A layer's own weights are looked at, wherever they wait.
            self._pipeline.remove_all_hooks()
        try:
            for component in components:
                component.use(loras)
        except BaseException:
            for component in components:
                component.off()
            raise
        finally:
            if aside and self._offload_again is not None:
                self._offload_again()


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    #: The farm's own: an alias may be the name of a module's method, which no adapter may have.
    adapter: str
    #: Hash of the file's tensors.
    weights: str
    #: Hash of its bytes past the header, by which galleries know it.
    past_header: str
    #: Whether it is a DoRA.
    has_magnitudes: bool
    #: As which its file was read.
    state: object


class PeftAdapters:
    """LoRAs of other pipelines, as PEFT's adapters: those of a call are its pictures' alike."""

    def __init__(
        self, pipeline: Any, known: Mapping[str, Lora], *, offload_again: Callable[[], None] | None = None
    ) -> None:
        self._pipeline = pipeline
        self._known = known
        self._offload_again = offload_again
        #: The one used last at the end.
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        #: So many were loaded.
        self._count = 0
        #: Those that are on, and their scales; None: it is not known.
        self._on: Mapping[str, float] | None = None

    def switch(self, scales: Mapping[str, float]) -> None:
        self._forget_changed(scales)
        if self._on is not None and list(self._on.items()) == list(scales.items()):
            # A walk through all modules otherwise, at every step.
            return
        self._on = None
        for alias in scales:
            if alias in self._loaded:
                self._loaded.move_to_end(alias)
        for alias in scales:
            if alias not in self._loaded:
                self._load(alias)
        for alias, scale in scales.items():
            if scale != 1 and self._loaded[alias].has_magnitudes:
                raise RenderFailed(
                    f"loras: {alias} is a DoRA, whose magnitudes have no scale: its scale must be 1 (given: {scale:g})"
                )
        self._forget_some(scales)
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
        return {
            alias: {"scale": scale, "weights": loaded.weights, "past_header": loaded.past_header}
            for alias, scale in sorted(scales.items())
            for loaded in [self._loaded[alias]]
        }

    def _forget_changed(self, wanted: Mapping[str, float]) -> None:
        """Take out those whose files are others now."""
        for alias in wanted.keys() & self._loaded.keys() & self._known.keys():
            if lora_state(self._known[alias]) not in (None, self._loaded[alias].state):
                self._take_out(alias)
                self._on = None

    def _take_out(self, alias: str) -> None:
        for component in self._components():
            if self._loaded[alias].adapter in getattr(component, "peft_config", {}):
                delete_adapter_layers(component, self._loaded[alias].adapter)
        del self._loaded[alias]

    def _forget_some(self, keep: Mapping[str, float]) -> None:
        """Take out of the layers what was not used for the longest time."""
        for alias in list(self._loaded):
            if len(self._loaded) <= max(_MOST_ADAPTERS, len(keep)):
                return
            if alias not in keep:
                self._take_out(alias)

    def _components(self) -> Iterator[torch.nn.Module]:
        """Yield the parts of the pipeline that LoRAs may change."""
        for name in self._pipeline._lora_loadable_modules:
            component = getattr(self._pipeline, name, None)
            if component is not None:
                yield component

    def _load(self, alias: str) -> None:
        lora = named(alias, self._known)
        if self._offload_again is not None:
            self._pipeline.remove_all_hooks()
        before = ModuleState(self._components())
        adapter = f"farm{self._count}"
        self._count += 1
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
            raise not_loaded(lora, error) from error
        finally:
            if self._offload_again is not None:
                self._offload_again()

    def _added(self, adapter: str, lora: Lora) -> _Loaded:
        """Add a LoRA to the pipeline as an adapter. Raises ValueError if some of it cannot be applied."""
        file, state = lora_file(lora), lora_state(lora)
        raw = read_tensors(file)
        parts = converted(self._pipeline, raw)
        config = written_config(file)
        if any(".lokr_" in name for tensors in parts.values() for name in tensors):
            for name, tensors in parts.items():
                check_modules(tensors, getattr(self._pipeline, name), name)
            self._pipeline.load_lora_weights(str(file), adapter_name=adapter, use_safetensors=True)
            for part in self._components():
                copy_to_memory(weight for name, weight in part.named_parameters() if f".{adapter}" in name)
        else:
            for name, tensors in parts.items():
                written = {key.removeprefix(f"{name}."): value for key, value in config.items()}
                _inject(getattr(self._pipeline, name), adapter, tensors, written)
        if not any(f".{adapter}" in name for part in self._components() for name, _ in part.named_parameters()):
            raise ValueError("nothing in it is for this model")
        return _Loaded(
            adapter=adapter,
            weights=hash_named(raw),
            past_header=hash_past_header(file),
            has_magnitudes=any(MAGNITUDE in name for part in [raw, *parts.values()] for name in part),
            state=state,
        )


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
