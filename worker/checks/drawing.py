"""Pictures drawn as serving would draw them, by slots where the model has them, to be compared."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image

from storage.errors import BadSpecification, RenderFailed
from storage.spec.capabilities import taken_controls
from storage.spec.models import DiffusersModel
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry
from worker.devices import Device
from worker.rendering.backend import LoadedModel, Replay, Slot

#: By how much two pictures may differ that are rounded from nearly equal numbers.
ROUNDING = 1
#: Who looks for what depends on neighbours need not wait for the last details.
_MOST_STEPS = 8
#: Too few for some samplers; the first that is accepted is taken.
_FEW_STEPS = (2, 4, 8)
PROMPTS = (
    "a large red star on a blue background",
    "a small green circle, top left",
    "a photograph of a lighthouse at dusk, long exposure, waves, fog, very detailed",
    "two yellow squares",
)
STRANGERS = ("a white triangle", "an oil painting of a ship in a storm", "black ink on paper", "a purple ring")


@dataclass(frozen=True)
class Drawn:
    """A picture and its recipe."""

    picture: Image
    recipe: Mapping[str, Any]


class Pictures:
    """The pictures that are asked of one model."""

    def __init__(self, registry: Registry, model: DiffusersModel, image: str, device: Device) -> None:
        """
        Args:
            image: the reference of a conditioning image, for models with ControlNets.

        Raises BadSpecification if the model's own defaults cannot be rendered.
        """
        self._registry = registry
        self.model, self.device = model, device
        nets = len(model.controlnets)
        self._beside: dict[str, Any] = {"control_images": [image] * nets} if nets else {}
        self.width, self.height = model.width, model.height
        # A model's own entry may be at fault; that is said as it is.
        self.of(0, num_inference_steps=model.num_inference_steps)
        self.steps = min(model.num_inference_steps, _MOST_STEPS)
        if not self.accepts(num_inference_steps=self.steps):
            self.steps = model.num_inference_steps
        self.few_steps = next(
            (n for n in _FEW_STEPS if n < self.steps and self.accepts(num_inference_steps=n)), self.steps
        )

    def of(self, number: int, **fields: Any) -> Spec:
        """Return one of a list of pictures with different prompts and seeds."""
        asked = {
            "model": self.model.alias,
            "prompt": PROMPTS[number % len(PROMPTS)],
            "seed": 1000 + number,
            "width": self.width,
            "height": self.height,
            "num_inference_steps": getattr(self, "steps", self.model.num_inference_steps),
        }
        return self._registry.resolve(Request.parse(asked | self._beside | fields), seed=0)

    def some(self, n: int, **fields: Any) -> list[Spec]:
        return [self.of(number, **fields) for number in range(n)]

    def stranger(self, number: int, **fields: Any) -> Spec:
        """Return a picture of somebody else's."""
        return self.of(number, **{"prompt": STRANGERS[number % len(STRANGERS)], "seed": 77_000 + number, **fields})

    def halve(self) -> bool:
        """Ask for half the sides from now on; return False if there is nothing smaller."""
        smaller = {name: getattr(self, name) // 2 // 64 * 64 for name in ("width", "height")}
        if min(smaller.values()) < 64 or not self.accepts(**smaller):
            return False
        self.width, self.height = smaller["width"], smaller["height"]
        return True

    def accepts(self, **fields: Any) -> bool:
        """Tell whether such a picture would be accepted at the door."""
        try:
            self.of(0, **fields)
        except BadSpecification:
            return False
        return True

    def takes(self, control: str) -> bool:
        taken = taken_controls(self.model)
        return taken is None or control in taken

    def other_sampler(self) -> str | None:
        """Return a sampler that is not the model's own, if it takes any."""
        return next((one for one in ("euler", "ddim") if one != self.model.sampler and self.accepts(sampler=one)), None)


class Drawer:
    """Draws with one loaded model."""

    def __init__(self, loaded: LoadedModel, on_step: Callable[[], None]) -> None:
        self.loaded = loaded
        self.loop = loaded.slots()
        self.on_step = on_step

    def draw(self, specs: Sequence[Spec]) -> list[Drawn]:
        """Draw pictures together. Raises as `LoadedModel.render`."""
        if self.loop is None:
            result = self.loaded.render(specs, self.on_step)
            return [Drawn(picture, result.recipe) for picture in result.pictures]
        slots = [self.loop.admit(spec) for spec in specs]
        while self.tick(slots):
            pass
        return self.develop(slots)

    def tick(self, slots: Sequence[Slot]) -> bool:
        """Take unfinished slots one call further; return False if there is none. Raises as `SlotLoop.tick`."""
        left = [slot for slot in slots if slot.made < slot.calls]
        if left and self.loop is not None:
            for fault in self.loop.tick(left).values():
                raise fault
            self.on_step()
        return bool(left)

    def develop(self, slots: Sequence[Slot]) -> list[Drawn]:
        if self.loop is None:
            raise ValueError("this model has no slots")
        found = []
        for one in self.loop.develop(slots):
            if isinstance(one, RenderFailed):
                raise one
            found.append(Drawn(one.picture, one.recipe))
        return found

    def again(self, spec: Spec, recipe: Mapping[str, Any]) -> Drawn:
        """Draw a picture of slots alone, by the calls that its recipe names."""
        if self.loop is None:
            raise ValueError("this model has no slots")
        which, of = recipe["decoded"][1], recipe["decoded"][0]
        replay = Replay(calls=tuple(tuple(run) for run in recipe["calls"]), decoded=(of, which))
        slot = self.loop.admit(spec, replay=replay)
        while self.tick([slot]):
            pass
        return self.develop([slot])[0]


def difference(one: Drawn, other: Drawn) -> int:
    """Return the largest difference of two pictures' values, 0…255; 255 for other sizes."""
    if one.picture.size != other.picture.size:
        return 255
    return int(np.abs(_values(one) - _values(other)).max())


def largest(pairs: Sequence[tuple[Drawn, Drawn]]) -> int:
    return max(difference(one, other) for one, other in pairs)


def psnr(one: Drawn, other: Drawn) -> float:
    """Return 10·log10(255² / mean squared difference), in dB; infinite for equal pictures."""
    error = float(np.square(_values(one) - _values(other)).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def said(largest_difference: int) -> str:
    return "to the last bit" if largest_difference == 0 else f"up to {largest_difference}/255"


def _values(drawn: Drawn) -> Any:
    return np.asarray(drawn.picture).astype(np.float64)
