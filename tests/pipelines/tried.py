"""One architecture as a farm has it: a model in a registry, what the door says of pictures, and what it draws."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import BadSpecification
from storage.objects.folder import LocalObjects
from storage.spec.capabilities import remarks
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry, parse_registry
from tests.pipelines import architectures
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend


class Tried:
    """One architecture: its model as a farm has it, and what it draws."""

    def __init__(self, name: str, folder: Path, entry: str = "") -> None:
        self.name = name
        self._folder = architectures.build(name, folder)
        head = f'[models.m]\nkind = "diffusers"\nsource = "{folder}"\nwidth = 64\nheight = 64\nnum_inference_steps = 3'
        self.registry: Registry = parse_registry(f"{head}\nguidance_scale = 5.0\n{entry}", where="here")
        self._inputs = InputCache(LocalObjects(folder / "objects"))
        self._model: Any = None
        self._drawn: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def model(self) -> Any:
        """Return the loaded model."""
        if self._model is None:
            resources = BackendResources(inputs=self._inputs, loras={}, home=self._folder)
            self._model = open_backend("diffusers", Device("cpu", 0), resources).load(self.registry["m"])
        return self._model

    def spec(self, **fields: Any) -> Spec:
        return self.registry.resolve(Request.parse({"prompt": "a red star", "seed": 1} | fields), seed=1)

    def accepted(self, **fields: Any) -> Spec | None:
        """Return the specification, or None if the door refuses it, naming one of these fields."""
        try:
            return self.spec(**fields)
        except BadSpecification as error:
            if not any(name in str(error) for name in fields):
                raise
            return None

    def said(self, spec: Spec) -> list[str]:
        return list(remarks(spec, self.registry["m"]))

    def drawn(self, spec: Spec) -> Any:
        """Return a picture that was drawn alone, once."""
        if spec.canonical() not in self._drawn:
            [self._drawn[spec.canonical()]] = self.together([spec])
        return self._drawn[spec.canonical()]

    def together(self, specs: Sequence[Spec], on_step: Callable[[], None] = lambda: None) -> list[Any]:
        """Return the pictures of one batch, which is listened to as a worker does."""
        made = self.model.render(specs, on_step, looks=lambda _positions, _look: None)
        return [np.asarray(picture).astype(np.int16) for picture in made.pictures]
