"""LoRAs of Stable Diffusion's and SDXL's pipelines, read from their files, and several together, each at its scale.

What has not been used for the longest time is forgotten once all that is kept becomes too much, so that memory does not
grow with the number of LoRAs that a model is ever used with.
"""

import textwrap
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed
from storage.spec.file_hashes import hash_past_header
from storage.spec.file_state import file_state
from storage.spec.lora_header import made_for
from storage.spec.model_files import named_folder, not_found, public_source, without_folders
from storage.spec.models import Lora
from worker.rendering.lora_changes import Change, Full, LowRank, change
from worker.rendering.lora_files import Tensors, by_component, lora_file, read_tensors, written_metadata
from worker.rendering.lora_names import Layers, by_layer
from worker.rendering.lora_peft import Scaling, written_scaling
from worker.rendering.torch_faults import as_fault
from worker.rendering.weights import hash_named

#: Of the computer's memory, for each model: some ten LoRAs of SDXL.
_MOST_BYTES = 1 << 30
#: Even where they are small.
_MOST = 64

#: Component → path of a layer → what becomes of it.
Changes = Mapping[str, Mapping[str, Change]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedLora:
    """A LoRA as its file has it, in the computer's memory."""

    alias: str
    #: Hash of the file's tensors.
    weights: str
    #: Hash of its bytes past the header, by which galleries know it.
    past_header: str
    changes: Changes

    @cached_property
    def bytes(self) -> int:
        return sum(
            tensor.nbytes for layers in self.changes.values() for one in layers.values() for tensor in one.tensors
        )

    @cached_property
    def is_low_rank(self) -> bool:
        """Whether it changes the UNet by products of small matrices alone."""
        return all(isinstance(one, LowRank) for one in self.changes.get("unet", {}).values())

    @cached_property
    def has_magnitudes(self) -> bool:
        return any(
            isinstance(one, Full) and one.has_magnitude for layers in self.changes.values() for one in layers.values()
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraSet:
    """LoRAs that are used together in one picture, each at its scale."""

    members: tuple[tuple[LoadedLora, float], ...]

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for sets that do the same."""
        return tuple((lora.alias, lora.weights, scale) for lora, scale in self.members)

    @cached_property
    def is_low_rank(self) -> bool:
        """Whether pictures with it can be in one call of the UNet with others, each row with its own matrices."""
        return all(lora.is_low_rank for lora, _ in self.members)

    @cached_property
    def has_full(self) -> bool:
        """Whether whole weights are made of a layer's own."""
        return any(
            isinstance(one, Full)
            for lora, _ in self.members
            for layers in lora.changes.values()
            for one in layers.values()
        )

    @cached_property
    def rank(self) -> int:
        """The most that any layer of the UNet has, of all members together."""
        ranks: dict[str, int] = {}
        for lora, _ in self.members:
            for path, one in lora.changes.get("unet", {}).items():
                ranks[path] = ranks.get(path, 0) + (one.rank if isinstance(one, LowRank) else 0)
        return max(ranks.values(), default=0)

    def layers(self, component: str) -> set[str]:
        return {path for lora, _ in self.members for path in lora.changes.get(component, {})}

    def of(self, component: str, path: str) -> list[tuple[Change, float]]:
        """Return what all members do to a layer, each with its scale."""
        return [
            (lora.changes[component][path], scale)
            for lora, scale in self.members
            if path in lora.changes.get(component, {})
        ]

    def recipe(self) -> dict[str, Any]:
        """Return what the recipe of a picture says of its LoRAs, by alias."""
        return {
            lora.alias: {"scale": scale, "weights": lora.weights, "past_header": lora.past_header}
            for lora, scale in sorted(self.members, key=lambda member: member[0].alias)
        }


class LoraShelf:
    """The LoRAs that one pipeline can use; those that were used last are kept in memory."""

    def __init__(self, pipeline: Any, known: Callable[[], Mapping[str, Lora]]) -> None:
        self._pipeline = pipeline
        self._known = known
        self._kept: OrderedDict[str, LoadedLora] = OrderedDict()
        #: As which each one's file was read.
        self._read_as: dict[str, object] = {}
        #: Called when another file is read under the same alias.
        self.when_changed: Callable[[], None] = lambda: None

    def get(self, scales: Mapping[str, float]) -> LoraSet:
        """Return LoRAs (alias → scale) to be used together.

        Raises:
            RenderFailed: one of them cannot be loaded, or not be used so.
            OutOfMemory, DeviceBroken: as `LoadedModel.render`.
        """
        members = tuple((self._loaded(alias), scale) for alias, scale in scales.items())
        for lora, scale in members:
            if scale != 1 and lora.has_magnitudes:
                raise RenderFailed(
                    f"loras: {lora.alias} is a DoRA, whose magnitudes have no scale: its scale must be 1 "
                    f"(given: {scale:g})"
                )
        self._forget_some(keep={lora.alias for lora, _ in members})
        return LoraSet(members=members)

    def _loaded(self, alias: str) -> LoadedLora:
        if alias in self._kept:
            if self._is_as_read(alias):
                self._kept.move_to_end(alias)
                return self._kept[alias]
            del self._kept[alias]
            self.when_changed()
        lora = named(alias, self._known())
        try:
            self._read_as[alias] = lora_state(lora)
            self._kept[alias] = _read(self._pipeline, lora)
        except Exception as error:
            raise not_loaded(lora, error) from error
        return self._kept[alias]

    def _is_as_read(self, alias: str) -> bool:
        lora = self._known().get(alias)
        return lora is None or lora_state(lora) in (None, self._read_as[alias])

    def _forget_some(self, keep: set[str]) -> None:
        total = sum(lora.bytes for lora in self._kept.values())
        for alias, lora in list(self._kept.items()):
            if total <= _MOST_BYTES and len(self._kept) <= _MOST:
                return
            if alias not in keep:
                total -= lora.bytes
                del self._kept[alias]


def named(alias: str, known: Mapping[str, Lora]) -> Lora:
    """Return the LoRA of this name. Raises RenderFailed if there is none, or its file is gone."""
    if alias not in known:
        raise RenderFailed(f"loras: no LoRA named {alias!r} is registered on this worker")
    lora = known[alias]
    if not_found(lora):
        raise RenderFailed(
            f"loras: {alias} cannot be loaded: there is no {public_source(lora)} where this machine's registry says"
        )
    return lora


def not_loaded(lora: Lora, error: Exception) -> Exception:
    """Return what to raise where a LoRA cannot be loaded: a loader can raise anything."""
    fault = as_fault(error)
    if isinstance(fault, OutOfMemory | DeviceBroken):
        return fault
    return RenderFailed(
        f"loras: {lora.alias} ({public_source(lora)}) cannot be loaded: {without_folders(in_one_line(error), lora)}"
    )


def lora_state(lora: Lora) -> object:
    """Return what is another once a LoRA's file on this machine is another, as one that is still being trained.

    None where it is not there, or comes from the hub: what is in memory is as good as ever.
    """
    if named_folder(lora) is None:
        return None
    try:
        return file_state(lora_file(lora))
    except (OSError, ValueError):
        return None


def in_one_line(error: Exception) -> str:
    """Put what a loader said into one line of a bearable length."""
    return textwrap.shorten(" ".join(str(error).split()) or type(error).__name__, 400, placeholder=" …")


def _read(pipeline: Any, lora: Lora) -> LoadedLora:
    """Read a LoRA's file. Raises ValueError, naming it, for what cannot be applied to this pipeline."""
    file = lora_file(lora)
    raw = read_tensors(file)
    try:
        changes = _changes(pipeline, raw, written_scaling(file))
    except ValueError as error:
        base = made_for({name: tuple(tensor.shape) for name, tensor in raw.items()}, written_metadata(file))
        raise ValueError(f"{error} (the file says that it was made for {base})" if base else str(error)) from error
    return LoadedLora(alias=lora.alias, weights=hash_named(raw), past_header=hash_past_header(file), changes=changes)


def _changes(pipeline: Any, raw: Tensors, scaling: Scaling) -> Changes:
    layers = Layers(pipeline)
    found: dict[str, dict[str, Change]] = {}
    rest = dict(raw)
    for name, parts in by_layer(raw).items():
        place = layers.find(name)
        # An alpha alone may be one of the names that are read below.
        if place is None or parts.keys() == {"alpha"}:
            continue
        component, path = place
        if path in found.setdefault(component, {}):
            raise ValueError(f"it changes {component}.{path} twice, the second time as {name}")
        tensors = {part: rest.pop(given) for part, given in parts.items()}
        factor = None if "alpha" in tensors else scaling.factor(component, path, tensors)
        found[component][path] = change(tensors, layers.layer(*place), f"{component}.{path}", factor=factor)
    if rest:
        # Older names of Diffusers' own, and what has no place.
        for component, tensors in by_component(pipeline, rest).items():
            for name, parts in by_layer(tensors).items():
                if name in found.setdefault(component, {}):
                    raise ValueError(f"it changes {component}.{name} twice")
                given = {part: tensors[one] for part, one in parts.items()}
                factor = scaling.factor(component, name, given)
                found[component][name] = change(
                    given, layers.layer(component, name), f"{component}.{name}", factor=factor
                )
    if not any(found.values()):
        raise ValueError("nothing in it is for this model")
    return found
