"""A picture is its recipe's, to the last bit, whoever joined, left, stepped aside or failed beside it."""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import OutOfMemory
from storage.spec.picture import Spec
from storage.spec.sampler_names import PLAIN
from tests.pipelines.conftest import Models
from tests.pipelines.pixels import largest_difference, pixels
from tests.pipelines.random_weights import _BETAS
from tests.pipelines.reference_solvers import ANY_STEPS
from tests.pipelines.slots import array, assert_replays, developed, loop_of
from worker.rendering.backend import LoadedModel, Replay, SlotPicture
from worker.rendering.samplers import make_scheduler
from worker.rendering.slot_sampling import FreshSchedulers, SlotSampler

Loader = Callable[[str], LoadedModel]

#: What differs within a loop.
PICTURES = {
    "sampler": st.sampled_from([None, *PLAIN, *ANY_STEPS]),
    "num_inference_steps": st.integers(1, 4),
    "guidance_scale": st.sampled_from([1.0, 3.0, 9.0]),
    "prompt": st.sampled_from(["a red star", "a (blue)1.3 cross", "a very long story, " * 12]),
}
#: Prompts that change between steps, and that are put together, which needs guidance.
CHANGING = PICTURES | {
    "prompt": st.sampled_from(
        ["a (red:1.2) star", "[a|b] star", "a [red:blue:0.5] star", "[a very long story, :1]" * 12]
    )
}
TOGETHER = PICTURES | {
    "prompt": st.sampled_from(["a star AND [a|b] :0.5", "a AND b :-1 AND c"]),
    "guidance_scale": st.sampled_from([3.0, 9.0]),
}


class Party:
    """Slots of one model, and what became of them."""

    def __init__(self, models: Models, model: LoadedModel, alias: str, beside: dict[str, Any]) -> None:
        self.models, self.alias, self.beside = models, alias, beside
        self.unet: Any = model.pipeline.unet  # type: ignore[attr-defined]
        self.loop = loop_of(model)
        self.slots: list[Any] = []
        self.made: list[tuple[Spec, SlotPicture]] = []

    def admit(self, fields: dict[str, Any]) -> None:
        # Many pictures: a quarter of the pixels take two thirds of the time.
        common = {"prompt_weighting": "compel", "width": 32, "height": 32}
        [spec] = self.models.specs(self.alias, 1, **(common | fields | self.beside))
        self.slots.append(self.loop.admit(spec.model_copy(update={"seed": len(self.slots) + len(self.made)})))

    def tick(self, chosen: int, threads: int) -> None:
        """Tick some of the slots, by the bits of a number; the others step aside."""
        some = [slot for number, slot in enumerate(self.slots) if chosen >> number & 1]
        assert self.loop.tick(some, threads=threads) == {}

    def fail(self, chosen: int) -> None:
        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        self.unet.forward = full
        try:
            if any(chosen >> number & 1 for number in range(len(self.slots))):
                with pytest.raises(OutOfMemory):
                    self.tick(chosen, 1)
        finally:
            del self.unet.forward

    def tick_and_fail(self) -> None:
        """Have all samplers take their steps, and memory run out in the last one's."""
        last, kept = self.slots[-1].sampler, self.slots[-1].sampler.step

        def full(noise: torch.Tensor) -> None:
            kept(noise)
            raise torch.OutOfMemoryError("CUDA out of memory")

        last.step = full
        try:
            self.tick(255, 1)
        finally:
            del last.step

    def drop(self, chosen: int) -> None:
        if self.slots:
            del self.slots[chosen % len(self.slots)]

    def take_leave(self) -> None:
        done = [slot for slot in self.slots if slot.made == slot.calls]
        self.made += zip([slot.spec for slot in done], developed(self.loop, done), strict=True)
        self.slots = [slot for slot in self.slots if slot.made < slot.calls]


def pictures(beside: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if beside.get("prompt_weighting") == "webui":
        return st.fixed_dictionaries(CHANGING) | st.fixed_dictionaries(TOGETHER)
    return st.fixed_dictionaries(PICTURES)


def history(moves: int, beside: dict[str, Any]) -> st.SearchStrategy[Any]:
    chosen = st.integers(1, 255)
    return st.lists(
        st.one_of(
            pictures(beside).map(lambda fields: ("admit", fields)),
            st.tuples(st.just("tick"), chosen, st.sampled_from([1, 2, 3])),
            st.tuples(st.just("tick"), st.just(255), st.just(1)),
            st.tuples(st.just("fail"), chosen),
            st.tuples(st.just("drop"), chosen),
        ),
        min_size=moves // 2,
        max_size=moves,
    )


@pytest.mark.parametrize(
    ("alias", "beside"),
    [
        ("sd", {}),
        ("sdxl", {}),
        ("sd-two", {"guess_mode": True, "control_guidance_end": 0.6}),
        ("sdxl-control", {"control_guidance_start": [0.3]}),
        ("sd", {"prompt_weighting": "webui"}),
        ("sdxl", {"prompt_weighting": "webui"}),
    ],
    ids=["sd", "sdxl", "sd-two", "sdxl-control", "sd-webui", "sdxl-webui"],
)
def test_whatever_happens_beside_a_picture_its_recipe_draws_it_again(
    models: Models, loaded: Loader, alias: str, beside: dict[str, Any]
) -> None:
    @settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(history(moves=10, beside=beside), pictures(beside))
    def happens(moves: list[Any], first: dict[str, Any]) -> None:
        party = Party(models, loaded(alias), alias, beside)
        party.admit(first)
        for move, *how in moves:
            getattr(party, move)(*how)
            party.take_leave()
        while party.slots:
            party.tick(255, 2)
            party.take_leave()
        for spec, picture in party.made:
            assert_replays(party.loop, spec, picture)

    happens()


# -- samplers that are shared ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sampler", [*PLAIN, *ANY_STEPS])
@torch.inference_mode()
def test_a_shared_sampler_steps_each_picture_as_its_own_would(
    models: Models, loaded: Loader, sampler: str, dtype: torch.dtype
) -> None:
    own: Any = loaded("sd").own_scheduler  # type: ignore[attr-defined]
    specs = models.specs("sd", 4, sampler=sampler, num_inference_steps=6, **({"eta": 0.7} if sampler == "ddim" else {}))
    fresh = FreshSchedulers(own, begins_at_first=False)
    # An odd number of values: the last ones of vectors are another loop's.
    shape, like = (3, 5, 7), torch.zeros(1, dtype=dtype)

    def begun(spec: Spec) -> SlotSampler[Spec]:
        made: SlotSampler[Spec] = SlotSampler.begun(fresh.get(sampler, 6), spec, shape, like)
        made.add(spec)
        return made

    alone, together = [begun(spec) for spec in specs], begun(specs[0])
    together.join([begun(spec) for spec in specs[1:]])
    generator = torch.Generator().manual_seed(0)
    groups = [together]
    for step in range(len(together.timesteps)):
        if step == 2:
            groups = [together.apart([0, 2]), together.apart([1, 3])]
        noise = torch.randn(4, *shape, generator=generator).to(dtype)
        for one in alone:
            one.model_input()
            one.step(noise[specs.index(one.members[0]() or specs[0])][None])
        for group in groups:
            group.model_input()
            group.step(torch.stack([noise[specs.index(member() or specs[0])] for member in group.members]))
            for place, member in enumerate(group.members):
                expected = alone[specs.index(member() or specs[0])]
                assert torch.equal(group.latents[place], expected.latents[0]), step
    # What is copied is what is made.
    scheduler = make_scheduler(sampler, own)
    scheduler.set_timesteps(6)
    assert scheduler.timesteps.equal(together.timesteps)
    assert np.isfinite(together.latents.float().numpy()).all()


def test_slots_of_equal_settings_share_a_sampler_until_they_part(models: Models, loaded: Loader) -> None:
    loop = loop_of(loaded("sd"))
    first: list[Any] = [loop.admit(spec) for spec in models.specs("sd", 3)]
    others = ({"guidance_scale": 1.0}, {"num_inference_steps": 4}, {"sampler": "lms"})
    apart: list[Any] = [loop.admit(models.specs("sd", **other)[0]) for other in others]
    loop.tick([*first, *apart])
    assert [len({id(slot.sampler) for slot in slots}) for slots in (first, apart)] == [1, 3]
    late: Any = loop.admit(models.specs("sd")[0])
    loop.tick([first[0], late])
    assert len({id(slot.sampler) for slot in (*first, late)}) == 3
    assert first[1].sampler is first[2].sampler
    assert np.isfinite(array(developed_alone(loop, late))).all()


def developed_alone(loop: Any, slot: Any) -> SlotPicture:
    while slot.made < slot.calls:
        loop.tick([slot])
    [picture] = developed(loop, [slot])
    return picture


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("PNDMScheduler", {"num_inference_steps": 4}),  # Runge-Kutta steps, which add to their state in place
        ("UniPCMultistepScheduler", {"num_inference_steps": 4}),
        ("DDPMScheduler", {}),
        ("KDPM2DiscreteScheduler", {}),
        ("DEISMultistepScheduler", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_a_models_own_sampler_without_a_name_here_is_each_slots_own(
    models: Models, kind: str, fields: dict[str, Any]
) -> None:
    model: Any = models.load("sd")
    third = {"solver_order": 3} if kind.startswith("UniPC") else {}
    model.own_scheduler = getattr(diffusers, kind)(**_BETAS, **third)
    model._fresh_schedulers = FreshSchedulers(model.own_scheduler, begins_at_first=False)
    party = Party(models, model, "sd", fields)
    for _ in range(2):
        party.admit({"prompt": "a red star"})
    while party.slots:
        party.fail(3)
        # Memory that runs out after a step takes the step back.
        before = [slot.latents.clone() for slot in party.slots]
        with pytest.raises(OutOfMemory):
            party.tick_and_fail()
        assert all(torch.equal(slot.latents, one) for slot, one in zip(party.slots, before, strict=True))
        party.tick(3, 1)
        party.take_leave()
    assert len({id(spec) for spec, _ in party.made}) == 2
    for spec, picture in party.made:
        assert_replays(party.loop, spec, picture)
        assert largest_difference(array(picture), pixels(model, [spec])[0]) <= 1


def test_calls_made_again_have_the_same_latents_also_where_bits_depend_on_the_row(
    models: Models, loaded: Loader
) -> None:
    loop = loop_of(loaded("sd"))
    slots: list[Any] = [loop.admit(spec) for spec in models.specs("sd", 4, num_inference_steps=2)]
    while slots[0].made < slots[0].calls:
        # Work that three threads share is cut in the middle of the third and of the sixth of eight rows.
        assert loop.tick(slots, threads=3) == {}
    assert [slot.ran for slot in slots] == [[[8, 3, row, 2]] for row in (0, 2, 4, 6)]
    for slot in slots:
        again: Any = loop.admit(slot.spec, replay=Replay(calls=tuple(tuple(run) for run in slot.ran), decoded=(1, 0)))
        while again.made < again.calls:
            loop.tick([again])
        assert torch.equal(again.latents, slot.latents)
