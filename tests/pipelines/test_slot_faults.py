"""What goes wrong in slots goes wrong for as few pictures as can be, and leaves no trace in the others."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed, RenderFault
from storage.rules.faults import Fault
from tests.pipelines.conftest import Models
from tests.pipelines.slots import array, assert_replays, developed, drawn, loop_of, rendered
from worker.rendering.backend import LoadedModel, SlotLoop

Loader = Callable[[str], LoadedModel]


@pytest.fixture(scope="session")
def loop(loaded: Loader) -> SlotLoop:
    return loop_of(loaded("sd"))


@pytest.mark.parametrize("step", [0, 1])
def test_a_sampler_that_fails_fails_its_own_picture(
    models: Models, loop: SlotLoop, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    specs = models.specs("sd", 3, sampler="euler a")
    whole = rendered(loop, specs)
    slots: list[Any] = [loop.admit(spec) for spec in specs]
    for _ in range(step):
        assert loop.tick(slots) == {}
    broken, take = slots[1].generator, EulerAncestralDiscreteScheduler.step

    def breaks(*given: Any, **named: Any) -> Any:
        made = take(*given, **named)
        if broken in named["generator"]:
            raise IndexError("index 9 is out of bounds")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(EulerAncestralDiscreteScheduler, "step", breaks)
        failed = loop.tick(slots)
    assert list(failed) == [1]
    assert "IndexError: index 9" in str(failed[1])
    assert failed[1].fault is Fault.PIPELINE_ERROR
    assert [slot.made for slot in slots] == [step + 1, step, step + 1]
    others = [0, 2]
    for number, picture in zip(others, drawn(loop, [slots[number] for number in others]), strict=True):
        # Its noise was drawn once, though the step was taken twice.
        assert np.abs(array(picture) - array(whole[number])).max() <= 1
        assert_replays(loop, specs[number], picture)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RenderFailed),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceBroken),
    ],
)
def test_a_call_that_fails_moves_no_picture_and_can_be_made_again(
    models: Models, loop: SlotLoop, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[RenderFault]
) -> None:
    specs = [models.specs("sd", sampler=sampler)[0] for sampler in ("euler a", "dpm++ 2m", "unipc", "pndm")]
    whole = rendered(loop, specs)
    unet = pipeline_of(loop).unet
    slots: list[Any] = [loop.admit(spec) for spec in specs]
    forward, calls = unet.forward, 0

    def fails(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise error
        return forward(*given, **named)

    monkeypatch.setattr(unet, "forward", fails)
    left = slots
    while left:
        before = [(slot.made, slot.latents.clone()) for slot in left]
        with pytest.raises(kind):
            loop.tick(left)
        assert [slot.made for slot in left] == [made for made, _ in before]
        assert all(torch.equal(slot.latents, latents) for slot, (_, latents) in zip(left, before, strict=True))
        assert loop.tick(left) == {}
        left = [slot for slot in left if slot.made < slot.calls]
    monkeypatch.undo()
    for picture, undisturbed in zip(developed(loop, slots), whole, strict=True):
        assert np.array_equal(array(picture), array(undisturbed))
        assert picture.recipe == undisturbed.recipe


def test_memory_that_runs_out_in_one_sampler_takes_back_the_steps_of_the_others(
    models: Models, loop: SlotLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [models.specs("sd", sampler=sampler)[0] for sampler in ("euler a", "dpm++ 2m", "lms", "euler")]
    whole = rendered(loop, specs)
    slots = [loop.admit(spec) for spec in specs]
    assert loop.tick(slots) == {}

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(EulerDiscreteScheduler, "step", full)
        with pytest.raises(OutOfMemory):
            loop.tick(slots)
    assert {slot.made for slot in slots} == {1}
    for picture, undisturbed in zip(drawn(loop, slots), whole, strict=True):
        assert np.array_equal(array(picture), array(undisturbed))


def test_half_of_the_slots_can_go_on_after_memory_ran_out(models: Models, loop: SlotLoop) -> None:
    specs = models.specs("sd", 4, num_inference_steps=2)
    slots = [loop.admit(spec) for spec in specs]
    assert loop.tick(slots) == {}
    first, second = drawn(loop, slots[:2]), drawn(loop, slots[2:])
    for spec, picture in zip(specs, first + second, strict=True):
        assert_replays(loop, spec, picture)


# -- development -----------------------------------------------------------------------------------------------


def spoiling(decode: Any, which: int, dtype: torch.dtype) -> Any:
    """A decoder that makes NaN of one picture of a call, in one precision."""

    def spoils(latents: torch.Tensor, *given: Any, **named: Any) -> Any:
        [made] = decode(latents, *given, **named)
        if latents.dtype == dtype and len(made) > which:
            made[which] = torch.nan
        return (made,)

    return spoils


def test_a_picture_that_is_not_finite_fails_alone(models: Models) -> None:
    model: Any = models.load("sd")
    loop, specs = loop_of(model), models.specs("sd", 4)
    slots = [loop.admit(spec) for spec in specs]
    model.pipeline.vae.decode = spoiling(model.pipeline.vae.decode, 2, torch.float32)
    while slots[0].made < slots[0].calls:
        loop.tick(slots)
    found = loop.develop(slots)
    assert [isinstance(one, RenderFailed) for one in found] == [False, False, True, False]
    assert "not finite" in str(found[2])


def test_what_half_precision_spoils_is_made_again_alone_by_the_pipeline(models: Models) -> None:
    model: Any = models.load("sd")
    model.pipeline.to(torch.bfloat16)
    model._recipe = {**model._recipe, "dtype": "bfloat16"}
    loop, specs = loop_of(model), models.specs("sd", 2)
    model.pipeline.vae.decode = spoiling(model.pipeline.vae.decode, 1, torch.bfloat16)
    good, again = rendered(loop, specs)
    assert good.recipe["dtype"] == "bfloat16"
    assert again.recipe["dtype"] == "float32"
    assert "bfloat16" in again.recipe["because"]
    assert "calls" not in again.recipe
    assert array(again).std() > 1
    assert model.pipeline.unet.dtype == torch.bfloat16


def test_a_decoder_that_fails_for_one_fails_that_one(models: Models) -> None:
    model: Any = models.load("sd")
    loop, specs = loop_of(model), models.specs("sd", 2)
    slots: list[Any] = [loop.admit(spec) for spec in specs]
    while slots[0].made < slots[0].calls:
        loop.tick(slots)
    decode, error = model.pipeline.vae.decode, RuntimeError("no such kernel")
    bad = slots[1].latents / model.pipeline.vae.config.scaling_factor

    def fails(latents: torch.Tensor, *given: Any, **named: Any) -> Any:
        if any(torch.equal(one, bad[0]) for one in latents):
            raise error
        return decode(latents, *given, **named)

    model.pipeline.vae.decode = fails
    good, failed = loop.develop(slots)
    assert not isinstance(good, RenderFailed)
    assert good.recipe["decoded"] == [1, 0]
    assert "no such kernel" in str(failed)
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfMemory):
        loop.develop(slots)


def test_the_safety_checker_judges_each_picture(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = models.load("sd-checked")
    loop, specs = loop_of(model), models.specs("sd-checked", 2)
    assert {picture.recipe["safety_checker"] for picture in rendered(loop, specs)} == {"passed"}
    verdicts = iter([True, False])
    monkeypatch.setattr(model.safety, "flags", lambda _: [next(verdicts)])
    slots = [loop.admit(spec) for spec in specs]
    while slots[0].made < slots[0].calls:
        loop.tick(slots)
    flagged, passed = loop.develop(slots)
    assert "safety checker flags" in str(flagged)
    assert not isinstance(passed, RenderFailed)


# -- memory ----------------------------------------------------------------------------------------------------


def test_nothing_of_a_slot_is_kept_once_it_is_dropped(models: Models, loop: SlotLoop) -> None:
    slots: list[Any] = [loop.admit(spec) for spec in models.specs("sd", 4, sampler="dpm++ 2m")]
    loop.tick(slots)
    together = weakref.ref(slots[0].sampler)
    dropped = weakref.ref(slots.pop())
    gc.collect()
    assert dropped() is None
    loop.tick(slots[:2])
    gc.collect()
    assert together() is None
    assert [len(slot.sampler.latents) for slot in slots] == [2, 2, 1]
    assert all(len(output) == 2 for output in slots[0].sampler.scheduler.model_outputs if output is not None)
    last = weakref.ref(slots[2].sampler)
    slots.clear()
    gc.collect()
    assert last() is None


def test_after_memory_ran_out_nothing_holds_the_calls_tensors(
    models: Models, loop: SlotLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def fails(sample: torch.Tensor, **_: Any) -> Any:
        seen.append(weakref.ref(sample))
        raise torch.OutOfMemoryError("CUDA out of memory")

    slots = [loop.admit(spec) for spec in models.specs("sd", 2)]
    monkeypatch.setattr(pipeline_of(loop).unet, "forward", fails)
    with pytest.raises(OutOfMemory) as failure:
        loop.tick(slots)
    assert seen[0]() is None
    assert failure.value.__context__ is None


def pipeline_of(loop: Any) -> Any:
    """The pipeline behind a loop."""
    return loop._parts.pipeline
