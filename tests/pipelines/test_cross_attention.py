"""Keys and values of prompts are made once for calls with the same prompts, and no bit depends on it."""

import inspect
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.pipelines.conftest import Models
from tests.pipelines.slots import loop_of
from worker.rendering import cross_attention
from worker.rendering.backend import LoadedModel
from worker.rendering.cross_attention import KeptProjections

Loader = Callable[[str], LoadedModel]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often each layer is computed."""
    counts: Counter[int] = Counter()
    forward = torch.nn.Linear.forward

    def counted(self: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
        counts[id(self)] += 1
        return forward(self, given)

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    return counts


def of_prompts(model: Any) -> list[int]:
    return [id(one) for name, one in model.pipeline.unet.named_modules() if name.endswith("attn2.to_v")]


def test_calls_for_the_same_pictures_make_them_once(models: Models, loaded: Loader, made: Counter[int]) -> None:
    model = loaded("sd")
    loop, layers = loop_of(model), of_prompts(model)
    made.clear()
    slots: list[Any] = [loop.admit(spec) for spec in models.specs("sd", 2, num_inference_steps=4)]
    for _ in range(3):
        loop.tick(slots, threads=1)
    assert {made[layer] for layer in layers} == {1}
    # Others' prompts, and another number of threads, which cut sums in other places.
    loop.tick([*slots, loop.admit(models.specs("sd", 1)[0])], threads=1)
    assert {made[layer] for layer in layers} == {2}
    late: Any = loop.admit(models.specs("sd", 1, num_inference_steps=4)[0])
    for threads in (1, 2, 2):
        loop.tick([late], threads=threads)
    assert {made[layer] for layer in layers} == {4}
    assert all("forward" not in vars(one) for one in model.pipeline.unet.modules())  # type: ignore[attr-defined]


@pytest.mark.parametrize("loras", [None, {"ink": 0.7}])
def test_no_bit_depends_on_what_was_kept(
    models: Models, monkeypatch: pytest.MonkeyPatch, loaded: Loader, loras: dict[str, float] | None
) -> None:
    # Some with LoRAs, and some with the very same prompts without.
    fields: dict[str, Any] = {"num_inference_steps": 3, "prompt": "a red star"}
    specs = [
        *models.specs("sd", 2, **fields, **({} if loras is None else {"loras": loras})),
        *models.specs("sd", 2, **fields, guidance_scale=1.0),
    ]

    def latents() -> list[torch.Tensor]:
        loop = loop_of(models.load("sd") if loras else loaded("sd"))
        slots: list[Any] = [loop.admit(spec) for spec in specs]
        for some in (slots, slots[:3], slots[1:], slots[:1]):
            loop.tick([slot for slot in some if slot.made < slot.calls], threads=1)
        return [slot.latents for slot in slots]

    kept = latents()
    monkeypatch.setattr(KeptProjections, "used", lambda *_: nullcontext())
    assert all(torch.equal(one, other) for one, other in zip(kept, latents(), strict=True))


def test_what_takes_much_memory_is_not_kept(
    models: Models, loaded: Loader, made: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_attention, "_MOST_BYTES", 1000)
    model = loaded("sd")
    loop, layers = loop_of(model), of_prompts(model)
    slot = loop.admit(models.specs("sd", 1)[0])
    made.clear()
    for _ in range(2):
        loop.tick([slot])
    assert {made[layer] for layer in layers} == {2}


def test_what_another_library_made_of_a_layer_stays(models: Models) -> None:
    model: Any = models.load("sd")
    loop = loop_of(model)
    layer = next(one for name, one in model.pipeline.unet.named_modules() if name.endswith("attn2.to_k"))
    called: list[torch.Tensor] = []

    def other(given: torch.Tensor) -> torch.Tensor:
        called.append(given)
        return torch.nn.Linear.forward(layer, given)

    layer.forward = other
    slot = loop.admit(models.specs("sd", 1)[0])
    for _ in range(2):
        loop.tick([slot])
    assert (len(called), layer.forward) == (2, other)


def test_what_attention_is_computed_by_has_its_signature_read_once(loaded: Loader) -> None:
    model: Any = loaded("sd")
    calls = {type(one).__call__ for one in model.pipeline.unet.attn_processors.values()}
    assert calls
    for call in calls:
        kept = vars(call)["__signature__"]
        assert kept == inspect.signature(call)
        assert list(kept.parameters)[:3] == ["self", "attn", "hidden_states"]
