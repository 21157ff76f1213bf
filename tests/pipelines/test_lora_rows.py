"""Pictures with different LoRAs are denoised by one call, and each is what it is alone, to the last bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import OutOfMemory, RenderFailed
from storage.spec.models import Lora
from storage.spec.picture import Spec
from tests.pipelines import kohya
from tests.pipelines.conftest import Models
from tests.pipelines.kohya import CONVS, OUTSIDE, Kind
from tests.pipelines.pixels import largest_difference, pixels
from tests.pipelines.slots import array, assert_replays, drawn, loop_of, replay_of
from worker.rendering.backend import LoadedModel
from worker.rendering.lora_layers import padded

#: Of several ranks, methods and kinds of layers.
KINDS = {
    "small": Kind(unet=("to_q", "to_v"), text=()),
    "words": Kind(unet=(), text=("q_proj", "fc1")),
    "wide": Kind(ranks=(9, 5), alphas=(1.0, 3.0)),
    "convs": Kind(unet=(*CONVS, *OUTSIDE), text=()),
    "loha": Kind(unet=("to_k",), method="loha"),
    "dora": Kind(magnitudes=True, text=()),
}


class Stage:
    """A model with LoRAs, and how often its UNet is called for how many rows."""

    def __init__(self, models: Models, alias: str, folder: Path) -> None:
        self.models, self.alias = models, alias
        self.model: LoadedModel = models.load(alias)
        loaded: Any = self.model
        self.adapters: Any = loaded.adapters
        self.adapters._known = {
            name: Lora(
                alias=name,
                source=str(kohya.write(folder / f"{name}.safetensors", loaded.pipeline, kind, seed=number)),
            )
            for number, (name, kind) in enumerate(KINDS.items())
        }
        self.loop = loop_of(self.model)
        self.rows: list[int] = []
        loaded.pipeline.unet.register_forward_pre_hook(
            lambda _unet, given, named: self.rows.append(len(given[0] if given else named["sample"])), with_kwargs=True
        )

    def specs(self, *loras: dict[str, float] | None, **fields: object) -> list[Spec]:
        found = self.models.specs(self.alias, len(loras), **({"num_inference_steps": 2} | fields))
        return [spec.model_copy(update={"loras": kind}) for spec, kind in zip(found, loras, strict=True)]

    def assert_as_alone(self, specs: list[Spec], pictures: list[Any]) -> None:
        for spec, picture in zip(specs, pictures, strict=True):
            assert picture.recipe.get("loras", {}).keys() == (spec.loras or {}).keys()
            assert_replays(self.loop, spec, picture)
            assert largest_difference(array(picture), pixels(self.model, [spec])[0]) <= 1, spec.loras


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def stage(request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(models, request.param, tmp_path_factory.mktemp("loras"))


def test_pictures_with_different_loras_are_denoised_by_one_call(stage: Stage) -> None:
    specs = stage.specs({"small": 0.7}, None, {"wide": 1.0}, {"small": 0.7, "words": 1.0})
    slots = [stage.loop.admit(spec) for spec in specs]
    stage.rows.clear()
    pictures = drawn(stage.loop, slots)
    assert stage.rows == [8, 8]
    # All are padded to the highest rank; who has no LoRA does not depend on it.
    assert [picture.recipe.get("lora_ranks") for picture in pictures] == [[16], None, [16], [16]]
    stage.assert_as_alone(specs, pictures)


def test_loras_of_convolutions_are_each_rows_own(stage: Stage) -> None:
    specs = stage.specs({"convs": 1.0}, {"convs": -0.5, "small": 1.0}, guidance_scale=1.0)
    pictures = drawn(stage.loop, [stage.loop.admit(spec) for spec in specs])
    stage.assert_as_alone(specs, pictures)


def test_what_changes_whole_weights_has_a_call_of_its_own(stage: Stage) -> None:
    specs = stage.specs({"small": 1.0}, {"loha": 0.5}, {"dora": 1.0, "small": 0.5}, {"loha": 0.5}, None)
    slots = [stage.loop.admit(spec) for spec in specs]
    stage.rows.clear()
    pictures = drawn(stage.loop, slots)
    assert sorted(stage.rows[:3]) == sorted(stage.rows[3:]) == [2, 4, 4]
    stage.assert_as_alone(specs, pictures)


def test_loras_are_those_of_the_row_whoever_joins_and_leaves(stage: Stage) -> None:
    first, second = stage.specs({"small": 1.0}, {"convs": 0.3}, num_inference_steps=3)
    third, plain = stage.specs({"wide": 1.0}, None, num_inference_steps=2)
    loop = stage.loop
    one, two = loop.admit(first), loop.admit(second)
    assert loop.tick([one, two]) == {}
    three, four = loop.admit(third), loop.admit(plain)
    assert loop.tick([four, three, one]) == {}
    assert loop.tick([two, four]) == {}
    assert loop.tick([one, three]) == {}
    assert loop.tick([two]) == {}
    made: list[Any] = list(loop.develop([one, two, three, four]))
    assert made[0].recipe["lora_ranks"] == [4, 16, 16]
    assert three.made == 2
    stage.assert_as_alone([first, second, third, plain], made)


def test_sets_that_are_called_apart_are_what_they_are_together_and_made_again_to_the_last_bit(stage: Stage) -> None:
    specs = stage.specs({"small": 0.7}, None, {"wide": 1.0}, {"small": 0.7}, {"loha": 0.5}, {"small": 0.3})
    # One of them steps otherwise, and has no scheduler in common with the others.
    specs[3] = specs[3].model_copy(update={"num_inference_steps": 3})
    together = drawn(stage.loop, [stage.loop.admit(spec) for spec in specs])
    slots = [stage.loop.admit(spec) for spec in specs]
    stage.rows.clear()
    apart = drawn(stage.loop, slots, apart=True)
    # A call for each set, guided: 2 rows for a picture, of {"small": 0.7} there are two.
    assert sorted(stage.rows) == sorted([2, 2, 2, 2, 4] * 2 + [2])
    assert [picture.recipe.get("lora_ranks") for picture in apart] == [[16], None, [16], [16, 16], None, [16]]
    for one, other in zip(together, apart, strict=True):
        assert largest_difference(array(one), array(other)) <= 1
    stage.assert_as_alone(specs, apart)


def test_calls_of_a_tick_may_be_together_and_apart_in_turns(stage: Stage) -> None:
    specs = stage.specs({"small": 0.7}, {"wide": 1.0}, None, num_inference_steps=4)
    slots = [stage.loop.admit(spec) for spec in specs]
    for turn in range(4):
        assert stage.loop.tick(slots, apart=turn % 2 == 1) == {}
    pictures: list[Any] = list(stage.loop.develop(slots))
    assert [run[0] for run in pictures[0].recipe["calls"]] == [6, 2, 6, 2]
    stage.assert_as_alone(specs, pictures)


def test_sets_that_are_called_apart_keep_their_places(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = stage.adapters._components["unet"]
    unet.forget()
    copied: list[Any] = []
    put = unet._put

    def counted(loras: Any) -> None:
        copied.append(loras.key)
        put(loras)

    monkeypatch.setattr(unet, "_put", counted)
    specs = stage.specs({"small": 0.1}, {"small": 0.2}, {"small": 0.3}, num_inference_steps=3)
    drawn(stage.loop, [stage.loop.admit(spec) for spec in specs], apart=True)
    assert len(copied) == 3


def test_a_rank_that_nothing_needs_any_more_is_given_up(stage: Stage) -> None:
    loop = stage.loop
    stage.adapters._components["unet"].forget()
    drawn(loop, [loop.admit(spec) for spec in stage.specs({"wide": 1.0}, {"small": 1.0})])
    # Two places are taken: a third set takes that of the first, which was the widest.
    for scale in (0.1, 0.2, 0.3):
        [picture] = drawn(loop, [loop.admit(*stage.specs({"small": scale}))])
    assert picture.recipe["lora_ranks"][-1] == 4


def test_memory_does_not_grow_with_the_number_of_loras(stage: Stage) -> None:
    unet = stage.adapters._components["unet"]

    def taken() -> int:
        return sum(layer.downs.nbytes + layer.ups.nbytes for layer in unet._layers.values() if layer.downs is not None)

    sizes = set()
    for number in range(12):
        drawn(stage.loop, [stage.loop.admit(*stage.specs({"small": 0.1 * number + 0.1}, num_inference_steps=1))])
        sizes.add(taken())
    assert len(sizes) == 1


def test_calls_that_cannot_be_made_again_are_refused(stage: Stage) -> None:
    [spec] = stage.specs({"wide": 1.0})
    [picture] = drawn(stage.loop, [stage.loop.admit(spec)])
    low = replay_of({**picture.recipe, "lora_ranks": [4]})
    with pytest.raises(RenderFailed, match="the LoRAs have higher ranks by now"):
        stage.loop.admit(spec, replay=low)


def test_a_call_that_fails_leaves_no_lora_behind(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, small = stage.specs(None, {"small": 1.0})
    expected = pixels(stage.model, [plain])

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stage.adapters._components["unet"].forget()
    slot = stage.loop.admit(small)
    with monkeypatch.context() as patch:
        patch.setattr("worker.rendering.lora_layers._fill", full)
        with pytest.raises(OutOfMemory):
            stage.loop.tick([slot])
    assert (pixels(stage.model, [plain]) == expected).all()
    stage.assert_as_alone([small], drawn(stage.loop, [slot]))


@pytest.mark.parametrize(("rank", "filled"), [(1, 4), (4, 4), (5, 8), (64, 64), (65, 128)])
def test_ranks_are_padded_to_powers_of_two(rank: int, filled: int) -> None:
    assert padded(rank) == filled
