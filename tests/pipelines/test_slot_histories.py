"""Whatever happens to a loop and its pictures, every picture that is done is the one that is made alone.

The worker's own loop with a real UNet: pictures come while others are half-way, some of them urgent; some are
cancelled, some fail, memory runs out, the process is told to stop.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.objects.object_keys import picture_key
from storage.rules.states import Priority
from tests.pipelines.conftest import Models
from tests.pipelines.slots import array, drawn, loop_of, replay_of
from tests.unit.slot_stage import FakeModel, Stage, job
from worker.rendering.backend import LoadedModel, SlotPicture
from worker.rendering.slot_decoding import SlotDecoder
from worker.rendering.slot_rows import UNetRows
from worker.rendering.slot_sampling import SlotSampler

#: What may become of a picture, beside being done.
FAULTS = ("its step raises", "its calls fail", "it is not finite", "its decoding raises")
MEMORY = "memory runs out in its step"
FATES = st.sampled_from([None, None, None, "cancelled", MEMORY, *FAULTS])


@dataclass(frozen=True)
class Coming:
    """A picture, when it comes, and what becomes of it."""

    fields: dict[str, Any]
    priority: Priority
    #: Before which call it comes.
    at: int
    fate: str | None
    #: At which of its steps, or how many calls after it came.
    when: int


COMING = st.builds(
    Coming,
    st.fixed_dictionaries(
        {
            "sampler": st.sampled_from(["ddim", "euler a", "dpm++ 2m", "unipc", "lms"]),
            "num_inference_steps": st.integers(1, 4),
            "guidance_scale": st.sampled_from([1.0, 3.0]),
        }
    ),
    st.sampled_from(list(Priority)),
    st.integers(0, 6),
    FATES,
    st.integers(0, 2),
)


@dataclass
class History:
    """What happens, and the stage on which it does; `worker.rendering`'s classes ask it what is to go wrong."""

    coming: Sequence[Coming]
    #: Calls of more pictures run out of memory.
    fits: int
    #: So does decoding of more than one.
    decodes_one: bool
    #: Before which call the process is told to stop; a next one serves what it gave back.
    stops_at: int
    stage: Stage = field(default_factory=Stage)
    calls: int = 0
    #: Pictures in whose step memory ran out: it does so once.
    ran_out: set[int] = field(default_factory=set)

    def fate(self, slot: Any) -> tuple[str | None, bool]:
        """Return what becomes of a slot's picture, and whether it is at that step."""
        one = self.coming[slot.spec.seed - 1]
        return one.fate, slot.made == min(one.when, one.fields["num_inference_steps"] - 1)

    def call(self, slots: Sequence[Any]) -> None:
        """Take part in a call of the UNet. Raises what is to go wrong with it."""
        for number, one in enumerate(self.coming, 1):
            if one.at == self.calls:
                self.stage.queue.add(self.jobs[number - 1])
            if one.fate == "cancelled" and one.at + one.when == self.calls:
                self.stage.queue.lost.add(number)
                self.stage.look_at_leases()
        self.stage.stopping = self.stage.stopping or self.calls == self.stops_at
        self.calls += 1
        self.stage.takes(0.2)
        if any(self.fate(slot) == ("its calls fail", True) for slot in slots):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        if len(slots) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def step(self, sampler: Any) -> None:
        """Take part in a sampler's step that was just made. Raises what is to go wrong with it."""
        for slot in (member() for member in sampler.members):
            fate, now = self.fate(SimpleNamespace(spec=slot.spec, made=slot.made - 1))
            if fate == "its step raises" and now:
                raise IndexError("index 9 is out of bounds")
            if fate == MEMORY and now and slot.spec.seed not in self.ran_out:
                self.ran_out.add(slot.spec.seed)
                raise torch.OutOfMemoryError("CUDA out of memory")

    def decoded(self, slots: Sequence[Any], made: torch.Tensor) -> None:
        """Take part in decoding. Raises what is to go wrong with it."""
        if self.decodes_one and len(slots) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for slot, picture in zip(slots, made, strict=True):
            if self.fate(slot)[0] == "its decoding raises":
                raise RuntimeError("no such kernel")
            if self.fate(slot)[0] == "it is not finite":
                picture[:] = torch.nan

    def run(self, models: Models, model: LoadedModel) -> None:
        # Many pictures: a quarter of the pixels take two thirds of the time.
        specs = [models.specs("sd", width=32, height=32, **one.fields)[0] for one in self.coming]
        self.jobs = [
            replace(job(number, 1, one.priority), spec=spec.model_copy(update={"seed": number}))
            for number, (one, spec) in enumerate(zip(self.coming, specs, strict=True), 1)
        ]
        self.stage.model = cast("FakeModel", _Loop(loop_of(model)))
        self.stage.queue.add(*(one for one, comes in zip(self.jobs, self.coming, strict=True) if comes.at == 0))
        self.calls = 1
        while True:
            while self.stage.queue.jobs:
                self.stage.stopping = False
                self.stage.run(batch_limit=4)
            # Those before whose call nothing was left to be called for.
            left = [one for one, comes in zip(self.jobs, self.coming, strict=True) if comes.at >= self.calls]
            if not left:
                return
            self.stage.queue.add(*left)
            self.calls = 100


class _Loop:
    """A loop of slots that is a loaded model, too; what it does to save memory is no concern of other tests."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._saves_memory = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def save_memory(self) -> bool:
        before, self._saves_memory = self._saves_memory, True
        return not before


@pytest.fixture
def happening(monkeypatch: pytest.MonkeyPatch) -> list[History]:
    """Have the history in this list happen; none in it, and nothing goes wrong."""
    current: list[History] = []
    predicted, step, decoded = UNetRows.predicted, SlotSampler.step, SlotDecoder._decoded

    def calls(self: UNetRows, slots: Any, *given: Any, **named: Any) -> torch.Tensor:
        for history in current:
            history.call(slots)
        return predicted(self, slots, *given, **named)

    def steps(self: Any, noise: torch.Tensor) -> None:
        step(self, noise)
        for history in current:
            history.step(self)

    def decodes(self: SlotDecoder, slots: Any) -> torch.Tensor:
        made = decoded(self, slots)
        for history in current:
            history.decoded(slots, made)
        return made

    monkeypatch.setattr(UNetRows, "predicted", calls)
    monkeypatch.setattr(SlotSampler, "step", steps)
    monkeypatch.setattr(SlotDecoder, "_decoded", decodes)
    for module in ("denoising", "claims_ahead"):
        monkeypatch.setattr(
            f"worker.serving.{module}.time",
            SimpleNamespace(monotonic=lambda: current[0].stage.now if current else 0.0),
        )
    return current


def test_every_picture_that_is_done_is_the_one_made_alone(
    models: Models, loaded: Any, happening: list[History]
) -> None:
    model = loaded("sd")
    loop = loop_of(model)

    @settings(
        max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(
        coming=st.lists(COMING, min_size=2, max_size=7),
        fits=st.sampled_from([1, 2, 3, 9]),
        decodes_one=st.booleans(),
        stops_at=st.integers(2, 20),
    )
    def happens(coming: list[Coming], fits: int, decodes_one: bool, stops_at: int) -> None:
        history = History(coming, fits, decodes_one, stops_at)
        happening[:] = [history]
        try:
            history.run(models, model)
        finally:
            happening.clear()
        queue = history.stage.queue
        assert not queue.done.keys() & queue.faults.keys()
        for number, one in enumerate(coming, 1):
            if one.fate in FAULTS:
                assert number in queue.faults, one
            elif one.fate == MEMORY and number in queue.faults:
                # Where one at a time was the limit already, nothing is left to be tried.
                assert "out of memory" in queue.faults[number], one
            elif one.fate == "cancelled":
                assert number not in queue.faults, one
            else:
                assert number in queue.done, one
        for number, batch in queue.done.items():
            spec = history.jobs[number - 1].spec
            recipe = {**batch.recipe, **batch.own_recipes[number]}
            stored = Image.open(io.BytesIO(history.stage.store.kept[picture_key("r", number)]))
            [again] = drawn(loop, [loop.admit(spec, replay=replay_of(recipe))])
            assert np.array_equal(array(again), np.asarray(stored)), (number, recipe["calls"])
            [alone] = drawn(loop, [loop.admit(spec)])
            assert np.abs(array(alone) - array(again)).max() <= 1, (number, recipe["calls"])

    happens()


def test_that_test_has_eyes(models: Models, loaded: Any) -> None:
    """Two pictures of other seeds differ by more than what it allows."""
    loop = loop_of(loaded("sd"))
    specs = [
        one.model_copy(update={"seed": seed}) for seed, one in enumerate(models.specs("sd", 2, width=32, height=32))
    ]
    one, other = (drawn(loop, [loop.admit(spec)])[0] for spec in specs)
    assert isinstance(one, SlotPicture)
    assert np.abs(array(one) - array(other)).max() > 1
