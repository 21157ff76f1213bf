"""The simulated backend: takes as long as a device would and draws a pattern from the specification; no torch."""

import hashlib
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed
from storage.rules.faults import Fault
from storage.spec.models import Model, SimulatedModel
from storage.spec.picture import Spec
from worker.devices import Device
from worker.rendering.backend import (
    LoadedModel,
    Look,
    RenderResult,
    Replay,
    Slot,
    SlotLoop,
    SlotPicture,
    SmallPictures,
)

_CELLS = 8


class SimulatedBackend:
    """Simulated models on one device, real or not: nothing is ever too large."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def load(self, model: Model, *, shared: LoadedModel | None = None) -> LoadedModel:
        del shared  # there are no weights
        if not isinstance(model, SimulatedModel):
            raise TypeError(f"{model.alias} is not a simulated model")
        return LoadedSimulation(model)

    def needed_memory(self, model: Model) -> int:
        del model  # there are no weights
        return 0

    def available_memory(self) -> int:
        return sys.maxsize

    def release_memory(self) -> None:
        """Do nothing: simulated models hold nothing on the device."""

    def hardware_name(self) -> str:
        return f"{self._device.kind} {platform.machine()}"


class LoadedSimulation:
    """A model each of whose steps, for a batch of B, takes `seconds_per_step + B × seconds_per_step_and_picture`."""

    def __init__(self, model: SimulatedModel) -> None:
        self._model = model
        self._saves_memory = False

    def render(
        self,
        specs: Sequence[Spec],
        on_step: Callable[[], None],
        *,
        at_most: int | None = None,
        threads: int | None = None,
        looks: Callable[[Sequence[int], Look], None] | None = None,
    ) -> RenderResult:
        del at_most, threads  # there is no memory, and there are no cores
        of = specs[0].num_inference_steps
        for step in range(1, of + 1):
            self.step(specs)
            on_step()
            if looks is not None:
                looks(range(len(specs)), partial(_small_of, specs, step / of))
        return RenderResult(pictures=[draw(spec) for spec in specs], recipe={"kind": "simulated"})

    def slots(self) -> SlotLoop | None:
        return _SimulatedLoop(self)

    def save_memory(self) -> bool:
        before, self._saves_memory = self._saves_memory, True
        return not before

    def step(self, specs: Sequence[Spec]) -> None:
        """Take the time of a step, and let it go wrong where that is rehearsed."""
        time.sleep(self._model.seconds_per_step + len(specs) * self._model.seconds_per_step_and_picture)
        self._go_wrong(specs)

    def _go_wrong(self, specs: Sequence[Spec]) -> None:
        """Rehearse the fault that the registry gives this model: see `storage.spec.models.SimulatedFault`."""
        fault = self._model.fault
        if fault is None or not any(fault.prompt in spec.prompt for spec in specs):
            return
        if len(specs) <= fault.spares_batches_of or (self._saves_memory and fault.spares_frugal):
            return
        if fault.kind == "error":
            raise RenderFailed("simulated: the pipeline fails", Fault.PIPELINE_ERROR)
        if fault.kind == "out of memory":
            raise OutOfMemory("simulated: the device is out of memory")
        if fault.kind == "broken device":
            raise DeviceBroken("simulated: device-side assert")
        if fault.kind == "bad picture":
            raise RenderFailed("simulated: the picture is not finite", Fault.BAD_PICTURE)
        if fault.kind == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(fault.seconds)


@dataclass(eq=False)
class _SimulatedSlot:
    spec: Spec
    replay: Replay | None = None
    made: int = 0
    #: How many pictures were in each call, run-length encoded.
    shapes: list[list[int]] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return self.spec.num_inference_steps

    def called(self, pictures: int) -> None:
        self.made += 1
        if self.shapes and self.shapes[-1][0] == pictures:
            self.shapes[-1][1] += 1
        else:
            self.shapes.append([pictures, 1])

    def recorded(self) -> list[list[int | None]]:
        """Return its calls as a recipe names them: those that were to be made again, though it was alone in them."""
        if self.replay is not None:
            return [[*call] for call in self.replay.calls]
        return [[pictures, None, 0, n] for pictures, n in self.shapes]


class _SimulatedLoop:
    """Slots whose calls take as long as steps of a batch of so many pictures."""

    def __init__(self, loaded: LoadedSimulation) -> None:
        self._loaded = loaded
        self.last_rows = (0, 0)

    def admit(self, spec: Spec, *, replay: Replay | None = None) -> _SimulatedSlot:
        return _SimulatedSlot(spec, replay)

    def tick(
        self, slots: Sequence[Slot], *, threads: int | None = None, apart: bool = False
    ) -> Mapping[int, RenderFailed]:
        del threads, apart  # there are no cores, and no LoRAs
        self._loaded.step([slot.spec for slot in slots])
        for slot in slots:
            _own(slot).called(len(slots))
        self.last_rows = (len(slots), len(slots))
        return {}

    def finish(self) -> None:
        """Do nothing: `tick` slept as long as it takes."""

    def preview(self, slots: Sequence[Slot]) -> SmallPictures:
        return _small([(slot.spec, slot.made / slot.calls) for slot in slots])

    def develop(self, slots: Sequence[Slot]) -> Sequence[SlotPicture | RenderFailed]:
        return [
            SlotPicture(
                picture=draw(slot.spec),
                recipe={
                    "kind": "simulated",
                    "calls": _own(slot).recorded(),
                    "decoded": [1, 0],
                },
            )
            for slot in slots
        ]


def _own(slot: Slot) -> _SimulatedSlot:
    if not isinstance(slot, _SimulatedSlot):
        raise TypeError("a slot of another loop")
    return slot


def draw(spec: Spec) -> Image.Image:
    """Draw a field of coloured cells: a pure function of the specification."""
    digest = hashlib.sha256(spec.canonical().encode()).digest()
    colours = random.Random(digest).randbytes(3 * _CELLS * _CELLS)  # noqa: S311 - a picture, not a secret
    cells = Image.frombytes("RGB", (_CELLS, _CELLS), colours)
    return cells.resize((spec.width, spec.height), Image.Resampling.NEAREST)


def _small_of(specs: Sequence[Spec], share: float, places: Sequence[int]) -> SmallPictures:
    return _small([(specs[place], share) for place in places])


def _small(shares: Sequence[tuple[Spec, float]]) -> SmallPictures:
    """Return small pictures of which such shares are there, 0…1; the rest is grey."""
    made = []
    for spec, share in shares:
        done = draw(spec)
        done.thumbnail((64, 64))
        made.append(Image.blend(Image.new("RGB", done.size, "grey"), done, share))
    return SmallPictures(fetch=lambda: (made, 0.0))
