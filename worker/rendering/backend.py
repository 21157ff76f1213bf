"""The seam between the worker and whatever makes pictures: specifications go in, steps are reported, results come out.

Everything above (`worker.serving`) knows these protocols only. `open_backend` opens an implementation by model kind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from storage.errors import FarmError
from storage.spec.models import Lora, Model
from storage.spec.picture import Spec
from worker.rendering.input_cache import InputCache


@dataclass(frozen=True, kw_only=True)
class RenderResult:
    """The pictures of one call, in the order of the specifications."""

    pictures: Sequence[Image]
    #: What the pictures depend on beside their specifications: model revision, dtype, versions, device. JSON values;
    #: `kind` is always there.
    recipe: Mapping[str, Any]
    #: What is to be said of each picture; empty: nothing of any.
    remarks: Sequence[tuple[str, ...]] = ()


class Abandoned(FarmError):
    """Raised by a step listener once no job of the batch is ours any more; it passes through `render` unchanged."""


class LoadedModel(Protocol):
    """One model on one device. It holds its memory until nothing refers to it any more."""

    def render(
        self,
        specs: Sequence[Spec],
        on_step: Callable[[], None],
        *,
        at_most: int | None = None,
        threads: int | None = None,
    ) -> RenderResult:
        """Render specifications that share a batch key: one picture each, from its own seed.

        A picture does not depend on which others are in the call, beyond 1/255 of rounding. Whatever is raised, the
        model can render again, unless it is DeviceBroken.

        Args:
            on_step: called after each call of the model (`storage.spec.samplers.model_calls` times for pictures that
                are denoised together); it may raise Abandoned, which ends the call.
            at_most: how many pictures fit in the device's memory, where that is fewer than the model's batch limit.
            threads: by how many threads a CPU renders, on which the last bits depend; None: as many as the process
                started with. Of no meaning on other devices.

        Raises:
            RenderFailed: these pictures cannot be made.
            OutOfMemory: fewer at once may fit.
            DeviceBroken: nothing works any more in this process.
        """
        ...

    def save_memory(self) -> bool:
        """Use less memory and more time from now on. Return False if it does so already, or cannot."""
        ...


class Backend(Protocol):
    """One way of making pictures, on one device."""

    def load(self, model: Model, *, shared: LoadedModel | None = None) -> LoadedModel:
        """Load a model of this backend's kind onto the device.

        Args:
            shared: a loaded model of the same weights (`Model.base`); what it holds is not loaded a second time.

        Raises:
            ModelUnavailable: the weights cannot be found or loaded, or do not fit beside what is loaded.
            DeviceBroken: nothing works any more in this process.
        """
        ...

    def needed_memory(self, model: Model) -> int:
        """Estimate the bytes that loading a model takes; 0 where that is unknown before its weights are fetched."""
        ...

    def available_memory(self) -> int:
        """Return the bytes that are free on the device."""
        ...

    def release_memory(self) -> None:
        """Give back to the device what models held that nothing refers to any more."""
        ...

    def hardware_name(self) -> str:
        """Return what the hardware calls itself: equal hardware, equal name."""
        ...


@dataclass(frozen=True, kw_only=True)
class BackendResources:
    """What backends need beside the device."""

    inputs: InputCache
    loras: Mapping[str, Lora]
    #: A folder of this machine for what is worth keeping between runs.
    home: Path
