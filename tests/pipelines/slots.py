"""Pictures through slots, as serving draws them, and again alone from their recipes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storage.errors import RenderFailed
from storage.spec.picture import Spec
from worker.rendering.backend import LoadedModel, Replay, Slot, SlotLoop, SlotPicture


def loop_of(model: LoadedModel) -> SlotLoop:
    loop = model.slots()
    assert loop is not None
    return loop


def drawn(
    loop: SlotLoop, slots: Sequence[Slot], threads: int | None = None, *, apart: bool = False
) -> list[SlotPicture]:
    """Tick all slots to their end, each of which leaves as soon as it can, and develop them together."""
    left = [slot for slot in slots if slot.made < slot.calls]
    while left:
        assert loop.tick(left, threads=threads, apart=apart) == {}
        left = [slot for slot in left if slot.made < slot.calls]
    return developed(loop, slots)


def developed(loop: SlotLoop, slots: Sequence[Slot]) -> list[SlotPicture]:
    found = loop.develop(slots)
    failed = [one for one in found if isinstance(one, RenderFailed)]
    assert failed == []
    return [one for one in found if isinstance(one, SlotPicture)]


def rendered(loop: SlotLoop, specs: Sequence[Spec], threads: int | None = None) -> list[SlotPicture]:
    return drawn(loop, [loop.admit(spec) for spec in specs], threads)


def replay_of(recipe: Mapping[str, Any]) -> Replay:
    return Replay(
        calls=tuple(tuple(run) for run in recipe["calls"]),
        decoded=tuple(recipe["decoded"]),
        lora_ranks=tuple(recipe.get("lora_ranks", ())),
    )


def array(picture: SlotPicture) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(picture.picture).astype(np.int16)


def assert_replays(loop: SlotLoop, spec: Spec, picture: SlotPicture) -> None:
    """Check that its recipe makes the picture again, alone, to the last bit, and says the same of it."""
    [again] = drawn(loop, [loop.admit(spec, replay=replay_of(picture.recipe))])
    assert np.array_equal(array(again), array(picture)), (spec, picture.recipe["calls"])
    assert again.recipe == picture.recipe
