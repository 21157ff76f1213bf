"""The models that this device process has loaded; where there is no room, the least recently used one goes."""

import logging
import time
from collections import OrderedDict

from storage.errors import ModelUnavailable
from storage.rules.faults import Fault
from storage.spec.models import Model
from worker.devices import Device
from worker.rendering.backend import Renderer, Supplies, free_memory, load, needed, room

log = logging.getLogger(__name__)


class ModelCache:
    """Renderers by alias, those used last at the end."""

    def __init__(self, device: Device, supplies: Supplies, *, most: int = 0) -> None:
        """
        Args:
            most: how many models may be loaded at once; 0: as many as memory holds.
        """
        self._device = device
        self._supplies = supplies
        self._most = most
        self._held: OrderedDict[str, tuple[Model, Renderer]] = OrderedDict()

    def get(self, model: Model) -> Renderer:
        """The model's renderer, loaded if need be. Raises ModelUnavailable."""
        if model.alias not in self._held:
            while self._most and len(self._held) >= self._most:
                self._evict(f"no more than {self._most} models at once")
            self._held[model.alias] = (model, self._load(model))
        self._held.move_to_end(model.alias)
        return self._held[model.alias][1]

    def _load(self, model: Model) -> Renderer:
        """Load, and as long as memory does not suffice, evict another model and try again."""
        while True:
            started = time.monotonic()
            shared = self._sharing(model)
            if shared is None and self._held and room(self._device) < needed(model):
                self._evict(f"memory is short for {model.alias}")
                continue
            try:
                renderer = load(model, self._device, self._supplies, shared)
            except ModelUnavailable as error:
                if error.fault is not Fault.OUT_OF_MEMORY or not self._held:
                    raise
                self._evict(f"memory is short for {model.alias}")
                continue
            seconds = time.monotonic() - started
            log.info("loaded", extra={"model": model.alias, "seconds": seconds, "shares_weights": shared is not None})
            return renderer

    def _sharing(self, model: Model) -> Renderer | None:
        """A loaded renderer that holds the model's weights already."""
        return next((held for other, held in self._held.values() if other.base == model.base), None)

    def _evict(self, why: str) -> None:
        alias, _ = self._held.popitem(last=False)
        free_memory(self._device)
        log.info("unloaded", extra={"model": alias, "why": why})
