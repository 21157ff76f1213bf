"""The models that this device process has loaded; where memory is short, the least recently used one is evicted."""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from storage.errors import ModelUnavailable
from storage.rules.faults import Fault
from storage.spec.models import Lora, Model
from worker.rendering.backend import Backend, LoadedModel
from worker.serving.loaded_files import LoadedFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    model: Model
    loaded: LoadedModel
    files: LoadedFiles


class ModelCache:
    """Loaded models by alias, the most recently used one last."""

    def __init__(
        self, backends: Mapping[str, Backend], *, capacity: int = 0, loras: Mapping[str, Lora] | None = None
    ) -> None:
        """
        Args:
            backends: those of this device, by model kind.
            capacity: how many models may be loaded at once; 0: as many as fit in memory.
            loras: the registry's.
        """
        self._loras = loras or {}
        self._other_loras = False
        self._backends = backends
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def get(self, model: Model) -> LoadedModel:
        """Return the loaded model; load it if need be, and anew where its entry or its files are others.

        Raises ModelUnavailable, DeviceBroken.
        """
        while self._other_loras and self._entries:
            self._evict("a LoRA's entry was changed")
        self._other_loras = False
        if (entry := self._entries.get(model.alias)) is not None:
            if entry.model != model:
                self._evict("its entry was changed", model.alias)
            elif entry.files.are_replaced():
                self._evict("its files were replaced", model.alias)
        if model.alias not in self._entries:
            self._forget_replaced(model)
            while self._capacity and len(self._entries) >= self._capacity:
                self._evict(f"at most {self._capacity} models at once")
            files = LoadedFiles(model)
            self._entries[model.alias] = _Entry(model=model, loaded=self._load(model), files=files)
        self._entries.move_to_end(model.alias)
        return self._entries[model.alias].loaded

    @property
    def aliases(self) -> tuple[str, ...]:
        """Those that are loaded, the most recently used one last."""
        return tuple(self._entries)

    def loaded(self, alias: str) -> Model | None:
        """Return a model if it is loaded, and its files are those that it was loaded from."""
        entry = self._entries.get(alias)
        return entry.model if entry is not None and entry.files.are_same() else None

    def forget_changed_loras(self, loras: Mapping[str, Lora]) -> None:
        """Have models loaded anew if an alias of a LoRA means another one now: they may have the one before."""
        before, self._loras = self._loras, loras
        if any(before[alias] != lora for alias, lora in loras.items() if alias in before):
            self._other_loras = True

    def _forget_replaced(self, model: Model) -> None:
        """Evict what holds the weights that a model's files had before."""
        for alias, entry in list(self._entries.items()):
            if entry.model.base == model.base and not entry.files.are_same():
                self._evict("its files were replaced", alias)

    def _load(self, model: Model) -> LoadedModel:
        """Load a model; as long as memory does not suffice, evict another one and try again."""
        backend = self._backends[model.kind]
        while True:
            started = time.monotonic()
            shared = self._sharing(model)
            if shared is None and self._entries and backend.available_memory() < backend.needed_memory(model):
                self._evict(f"memory is short for {model.alias}")
                continue
            try:
                loaded = backend.load(model, shared=shared)
            except ModelUnavailable as error:
                if error.fault is not Fault.OUT_OF_MEMORY or not self._entries:
                    raise
            else:
                seconds = time.monotonic() - started
                log.info(
                    "loaded", extra={"model": model.alias, "seconds": seconds, "shares_weights": shared is not None}
                )
                return loaded
            # Outside the handler: what was caught there holds whatever was loaded before memory ran out.
            self._evict(f"memory is short for {model.alias}")

    def _sharing(self, model: Model) -> LoadedModel | None:
        """Find a loaded model that holds the same weights."""
        return next((entry.loaded for entry in self._entries.values() if entry.model.base == model.base), None)

    def _evict(self, why: str, alias: str | None = None) -> None:
        """Let go of a model; of the least recently used one where none is named."""
        if alias is not None:
            self._entries.move_to_end(alias, last=False)
        alias, evicted = self._entries.popitem(last=False)
        kind = evicted.model.kind
        del evicted  # the device's memory is free only once nothing refers to the model
        self._backends[kind].release_memory()
        log.info("unloaded", extra={"model": alias, "why": why})
