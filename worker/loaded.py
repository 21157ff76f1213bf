"""The models that this device process has loaded: each once, then kept."""

import logging
import time

from storage.registry import Model
from worker.devices import Device
from worker.renderers import Renderer, load

log = logging.getLogger(__name__)


class Loaded:
    """Renderers by alias."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._renderers: dict[str, Renderer] = {}

    def get(self, model: Model) -> Renderer:
        """The model's renderer, loaded on first use. Raises ModelUnavailable."""
        if model.alias not in self._renderers:
            started = time.monotonic()
            self._renderers[model.alias] = load(model, self._device)
            log.info("loaded model=%s seconds=%.1f", model.alias, time.monotonic() - started)
        return self._renderers[model.alias]
