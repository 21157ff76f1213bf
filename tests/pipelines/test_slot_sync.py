"""Within a tick nothing is read back from the device, which would wait for all that it was asked for before.

Tensors of PyTorch's meta device have no values: whatever asks for one, or copies it to the computer's memory, raises.
Like those of a GPU, they stand beside numbers on the CPU, but beside no other tensors there.
"""

from typing import Any

import pytest
import torch

from storage.errors import RenderFailed
from storage.spec.sampler_names import PLAIN
from tests.pipelines.conftest import Models
from tests.pipelines.reference_solvers import ANY_STEPS
from tests.pipelines.slots import loop_of
from worker.rendering.backend import SlotLoop


def on_meta(models: Models, alias: str) -> SlotLoop:
    """Return the slots of a model of whose tensors no value can be read."""
    model: Any = models.load(alias)
    loop = loop_of(model)
    model.pipeline.to("meta")
    return loop


@pytest.mark.parametrize("alias", ["sd", "sdxl-control"])
def test_no_sampler_reads_a_value_back_within_a_tick(models: Models, alias: str) -> None:
    loop = on_meta(models, alias)
    guidance = (5.0, 1.0)
    slots: list[Any] = [
        loop.admit(models.specs(alias, sampler=sampler, num_inference_steps=3, guidance_scale=guidance[number % 2])[0])
        for number, sampler in enumerate([None, *PLAIN, *ANY_STEPS])
    ]
    left = slots
    while left:
        assert loop.tick(left) == {}
        left = [slot for slot in left if slot.made < slot.calls]
    assert {slot.latents.device.type for slot in slots} == {"meta"}


@pytest.mark.parametrize("read", [lambda latents: latents.max().item(), lambda latents: latents.cpu()])
def test_a_tick_that_reads_a_value_back_fails_that_test(
    models: Models, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    loop = on_meta(models, "sd")
    slot: Any = loop.admit(models.specs("sd")[0])
    step = slot.sampler.step
    monkeypatch.setattr(slot.sampler, "step", lambda noise: (read(noise), step(noise)))
    [failed] = loop.tick([slot]).values()
    assert isinstance(failed, RenderFailed)
    assert torch.device(slot.latents.device).type == "meta"
