"""The seam between the worker and whatever makes pictures: specifications go in, steps are reported, results come out.

Everything above (`worker.serving`) knows these protocols only. `open_backend` opens an implementation by model kind.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from storage.errors import FarmError, RenderFailed
from storage.spec.models import Embedding, Lora, Model
from storage.spec.picture import Spec
from worker.rendering.input_cache import InputCache

#: What a recipe says of one picture alone: its `Replay`, and its LoRAs.
_OWN = ("calls", "decoded", "lora_ranks", "loras")


@dataclass(frozen=True, kw_only=True)
class RenderResult:
    """The pictures of one call, in the order of the specifications."""

    pictures: Sequence[Image]
    #: What the pictures depend on beside their specifications: model revision, dtype, versions, device. JSON values;
    #: `kind` is always there.
    recipe: Mapping[str, Any]
    #: What is to be said of each picture; empty: nothing of any.
    remarks: Sequence[tuple[str, ...]] = ()


class NoPreview(FarmError):
    """Raised when it cannot be shown how a picture looks before it is done; the message says why."""


@dataclass(frozen=True, kw_only=True)
class SmallPictures:
    """Previews that the device was asked for."""

    #: Waits for the device, on any thread; returns them, and the seconds that the device itself took, where it works
    #: beside its callers.
    fetch: Callable[[], tuple[Sequence[Image], float]]


#: Asks the device for previews of some pictures, by their places among those of a call; it does not wait for it.
#: Raises NoPreview, and RenderFault as a call does.
Look = Callable[[Sequence[int]], SmallPictures]


class Abandoned(FarmError):
    """Raised by a step listener once no job of the batch is ours any more; it passes through `render` unchanged."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """By which calls a picture was made, from its recipe: the last bits of a picture depend on nothing else."""

    #: For each run of equal calls: rows of the call, threads of a CPU (None: not one), the first of the rows that were
    #: this picture's, how many such calls.
    calls: tuple[tuple[int, int | None, int, int], ...]
    #: How many pictures were decoded in one call with it, and which of them it was.
    decoded: tuple[int, int]
    #: For each run of calls, the rank to which the matrices of LoRAs were padded with zeros; None: there were none.
    lora_ranks: tuple[int | None, ...] = ()

    @classmethod
    def read(cls, text: str | None) -> "Replay | None":
        """Read what a job's row says of it, as JSON."""
        if text is None:
            return None
        said = json.loads(text)
        of, which = said["decoded"]
        return cls(
            calls=tuple((rows, threads, row, n) for rows, threads, row, n in said["calls"]),
            decoded=(of, which),
            lora_ranks=tuple(said.get("lora_ranks", ())),
        )


class Slot(Protocol):
    """One picture on its way: its latents, its noise, its sampler's state. Whoever drops it frees its memory."""

    @property
    def spec(self) -> Spec: ...

    @property
    def made(self) -> int:
        """How many calls of the model were made for it."""
        ...

    @property
    def calls(self) -> int:
        """How many it takes in all (`storage.spec.samplers.model_calls`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class SlotPicture:
    """A picture that left its slot; its `recipe` (as `RenderResult.recipe`) holds the `Replay` that makes it again."""

    picture: Image
    recipe: Mapping[str, Any]
    remarks: tuple[str, ...] = ()

    def own_recipe(self) -> dict[str, Any]:
        """Return what its recipe says of it alone: its `Replay`, and its LoRAs."""
        return {name: said for name, said in self.recipe.items() if name in _OWN}

    def common_recipe(self) -> dict[str, Any]:
        """Return what its recipe may have in common with others."""
        return {name: said for name, said in self.recipe.items() if name not in _OWN}


class SlotLoop(Protocol):
    """A model whose pictures are denoised together though each is at a step of its own.

    Those of one call share a loop key (`Spec.loop_key`); steps, guidance, sampler and η are each picture's own. A
    picture does not depend on its neighbours, to the last bit, but only on the shapes of the calls, which it records.
    """

    @property
    def last_rows(self) -> tuple[int, int]:
        """The rows of the last tick that were pictures', and all rows, filled up to fixed shapes."""
        ...

    def admit(self, spec: Spec, *, replay: Replay | None = None) -> Slot:
        """Prepare a picture: embeddings, noise, sampler.

        Args:
            replay: make the same calls as then; each tick is then this slot's alone.

        Raises:
            RenderFailed: this picture cannot be made.
            OutOfMemory, DeviceBroken: as `LoadedModel.render`.
        """
        ...

    def tick(
        self, slots: Sequence[Slot], *, threads: int | None = None, apart: bool = False
    ) -> Mapping[int, RenderFailed]:
        """Take these unfinished slots one call further; return by position those that failed, each for itself.

        Whatever is raised, no slot has moved: the same tick can be tried again, with fewer.

        Args:
            threads: as in `LoadedModel.render`.
            apart: have a call of the model for each set of LoRAs, one after the other, in place of one for all.

        Raises:
            RenderFailed: the call failed as a whole; which slot is to blame is not known.
            OutOfMemory: fewer at once may fit.
            DeviceBroken: nothing works any more in this process.
        """
        ...

    def finish(self) -> None:
        """Wait until the device has done what it was called for, which may be later than `tick` returns.

        Raises what `tick` does; the slots have moved.
        """
        ...

    def preview(self, slots: Sequence[Slot]) -> SmallPictures:
        """Ask the device how slots look that the last tick has moved. Does not wait for it.

        Raises NoPreview where that cannot be told, and what `tick` does; no slot has moved.
        """
        ...

    def develop(self, slots: Sequence[Slot]) -> Sequence[SlotPicture | RenderFailed]:
        """Decode slots whose calls are all made. Raises OutOfMemory and DeviceBroken; then it can be tried again."""
        ...


class LoadedModel(Protocol):
    """One model on one device. It holds its memory until nothing refers to it any more."""

    def render(
        self,
        specs: Sequence[Spec],
        on_step: Callable[[], None],
        *,
        at_most: int | None = None,
        threads: int | None = None,
        looks: Callable[[Sequence[int], Look], None] | None = None,
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
            looks: called after `on_step` with the positions of the specifications whose step it was, and a way to look
                at some of these, by their places among the positions. Not after every step of every pipeline.

        Raises:
            RenderFailed: these pictures cannot be made.
            OutOfMemory: fewer at once may fit.
            DeviceBroken: nothing works any more in this process.
        """
        ...

    def slots(self) -> SlotLoop | None:
        """Return the way in which pictures join and leave at every call; None: batches, by `render`, are the only one.

        A model that is known to lack it says why in the log, once.
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
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)
