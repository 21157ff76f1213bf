"""What makes pictures: one interface, one implementation per model kind."""

import importlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from storage.errors import FarmError
from storage.spec.models import DiffusersModel, Lora, Model
from storage.spec.picture import Spec
from worker.devices import Device
from worker.rendering.input_cache import Inputs


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

    def render(self, specs: Sequence[Spec], on_step: Callable[[], None], *, at_most: int | None = None) -> Rendered:
        """Render specifications of one batch key in one pipeline call, with one generator per picture.

        Args:
            on_step: called after each denoising step; it may raise Abandoned, which ends the call.
            at_most: how many pictures the device's memory holds, where it is less than the model's batch limit.

        Raises:
            RenderFailed: these pictures cannot be made.
            OutOfMemory: not so many at once.
            DeviceBroken: nor anything else in this process.
        """
        ...

    def spare_memory(self) -> bool:
        """From now on use less memory and take longer; False if that was so already, or cannot be."""
        ...


@dataclass(frozen=True, kw_only=True)
class Supplies:
    """What renderers need beside their model."""

    inputs: Inputs
    loras: Mapping[str, Lora]
    #: A folder of this machine for what is worth keeping between runs.
    home: Path


#: kind → module with a `load` as below. Named, not imported: only the process that owns a device, and only for a kind
#: that it serves, pays for torch (gigabytes of memory, seconds of start).
_MODULES = {"diffusers": "worker.rendering.diffusers_backend", "simulated": "worker.rendering.simulated"}


def import_kind(kind: str) -> None:
    """Import a kind's libraries ahead of its first picture."""
    importlib.import_module(_MODULES[kind])


def load(model: Model, device: Device, supplies: Supplies, base: Renderer | None = None) -> Renderer:
    """Load a model onto the device; what it shares with a loaded one of the same weights, `base`, is not loaded again.

    Raises ModelUnavailable.
    """
    module = importlib.import_module(_MODULES[model.kind])
    renderer: Renderer = module.load(model, device, supplies, base)
    return renderer


def needed(model: Model) -> int:
    """About how many bytes the model's weights take; 0 where that is not known before they are fetched."""
    if not isinstance(model, DiffusersModel):
        return 0
    found: int = importlib.import_module(_MODULES[model.kind]).needed(model)
    return found


def room(device: Device) -> int:
    """Bytes that are free on the device; without end on a simulated one."""
    if device.kind == "simulated":
        return sys.maxsize
    free: int = importlib.import_module(_MODULES["diffusers"]).room(device)
    return free


def free_memory(device: Device) -> None:
    """Give back what models held that nobody refers to any more."""
    if device.kind != "simulated":
        importlib.import_module("worker.rendering.tuning").free_memory()


def hardware_name(device: Device) -> str:
    """The hardware's own name, for people; only a CUDA device's driver is asked."""
    if device.kind == "cuda":
        name: str = importlib.import_module(_MODULES["diffusers"]).cuda_name()
        return name
    return f"{device.kind} {platform.machine()}"


def kinds_of(device: Device) -> frozenset[str]:
    """The model kinds that a device can render: a simulated one has no torch, a real one can pretend."""
    return frozenset({"simulated"}) if device.kind == "simulated" else frozenset(_MODULES)
