"""What makes pictures: one interface, one implementation per model kind."""

import importlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image

from storage.errors import FarmError
from storage.registry import Model
from storage.spec import Spec
from worker.devices import Device


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The pictures of one pipeline call, in the order of the specifications."""

    pictures: Sequence[Image]
    #: What, beside the specification, a picture depends on: model revision, dtype, versions, device.
    recipe: Mapping[str, Any]


class Abandoned(FarmError):
    """Raised by a step's listener when none of the batch's jobs is ours any more; renderers let it pass."""


class Renderer(Protocol):
    """One model on one device, loaded once and kept."""

    def render(self, specs: Sequence[Spec], on_step: Callable[[], None]) -> Rendered:
        """Render specifications of one batch key in one pipeline call, with one generator per picture.

        Args:
            on_step: called after each denoising step; it may raise Abandoned, which ends the call.

        Raises:
            RenderFailed: these pictures cannot be made.
        """
        ...


#: kind → module with `load(model, device) -> Renderer`. Named, not imported: only the process that owns a
#: device, and only for a kind that it serves, pays for torch (gigabytes of memory, seconds of start).
_MODULES = {"diffusers": "worker.pipelines", "simulated": "worker.simulated"}


def import_kind(kind: str) -> None:
    """Import a kind's libraries ahead of its first picture."""
    importlib.import_module(_MODULES[kind])


def load(model: Model, device: Device) -> Renderer:
    """Load a model onto the device. Raises ModelUnavailable."""
    renderer: Renderer = importlib.import_module(_MODULES[model.kind]).load(model, device)
    return renderer


def hardware_name(device: Device) -> str:
    """The hardware's own name, for people; only a CUDA device's driver is asked."""
    if device.kind == "cuda":
        name: str = importlib.import_module(_MODULES["diffusers"]).cuda_name()
        return name
    return f"{device.kind} {platform.machine()}"


def kinds_of(device: Device) -> frozenset[str]:
    """The model kinds that a device can render: a simulated one has no torch, a real one can pretend."""
    return frozenset({"simulated"}) if device.kind == "simulated" else frozenset(_MODULES)
