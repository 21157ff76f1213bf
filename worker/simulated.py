"""The simulated model: takes the time that a device would take and draws a pattern from the recipe, without torch."""

import hashlib
import random
import time
from collections.abc import Callable, Sequence

from PIL import Image

from storage.models import Model, SimulatedModel
from storage.spec import Spec
from worker.devices import Device
from worker.renderers import Rendered, Renderer, Supplies

_CELLS = 8


class SimulatedRenderer:
    """Each step of a batch of B takes `seconds_per_step + B × seconds_per_step_and_picture`."""

    def __init__(self, model: SimulatedModel) -> None:
        self._model = model

    def render(self, specs: Sequence[Spec], on_step: Callable[[], None]) -> Rendered:
        pause = self._model.seconds_per_step + len(specs) * self._model.seconds_per_step_and_picture
        for _ in range(specs[0].num_inference_steps):
            time.sleep(pause)
            on_step()
        return Rendered(pictures=[draw(spec) for spec in specs], recipe={"kind": "simulated"})


def draw(spec: Spec) -> Image.Image:
    """A field of coloured cells: a pure function of the specification."""
    digest = hashlib.sha256(spec.canonical().encode()).digest()
    colours = random.Random(digest).randbytes(3 * _CELLS * _CELLS)  # noqa: S311 - a picture, not a secret
    cells = Image.frombytes("RGB", (_CELLS, _CELLS), colours)
    return cells.resize((spec.width, spec.height), Image.Resampling.NEAREST)


def load(model: Model, device: Device, supplies: Supplies, base: Renderer | None = None) -> Renderer:  # noqa: ARG001 - the interface of `renderers.load`
    if not isinstance(model, SimulatedModel):
        raise TypeError(f"{model.alias} is not a simulated model")
    return SimulatedRenderer(model)
