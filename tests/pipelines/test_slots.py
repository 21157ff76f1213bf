"""Pictures through slots are those that Diffusers' own pipelines draw, and their recipes draw them again."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module  # type: ignore[import-untyped]
from diffusers import StableDiffusionPAGPipeline, StableDiffusionPipeline

from storage.errors import RenderFailed
from storage.spec.models import DiffusersModel
from storage.spec.picture import Spec
from storage.spec.sampler_names import PLAIN
from storage.spec.samplers import model_calls
from tests.pipelines.conftest import Models
from tests.pipelines.pixels import largest_difference, pixels
from tests.pipelines.reference_solvers import PAIRS
from tests.pipelines.slots import array, assert_replays, drawn, loop_of, rendered, replay_of
from worker.rendering.backend import LoadedModel, Replay
from worker.rendering.slot import DiffusersSlot
from worker.rendering.slot_rows import filled_up
from worker.rendering.unread import unread_words

Loader = Callable[[str], LoadedModel]


@pytest.fixture(scope="session")
def v_predicting(weights: Path, models: Models, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A pipeline like Stable Diffusion 2.1: it predicts velocities, and skips a layer of its text encoder."""
    folder = tmp_path_factory.mktemp("weights") / "sd2"
    pipeline: Any = StableDiffusionPipeline.from_pretrained(weights / "sd", safety_checker=None)
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    pipeline.save_pretrained(folder)
    model = models.registry["sd"]
    assert isinstance(model, DiffusersModel)
    return models.backend.load(model.model_copy(update={"source": str(folder)}))


# -- what Diffusers draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["sd", "v_predicting", "sdxl"])
def test_every_sampler_draws_in_slots_what_it_draws_in_a_pipeline(
    models: Models, loaded: Loader, v_predicting: LoadedModel, alias: str
) -> None:
    name = "sdxl" if alias == "sdxl" else "sd"
    model = v_predicting if alias == "v_predicting" else loaded(alias)
    kinds = [
        {"sampler": sampler, "num_inference_steps": 2 + number % 2, "guidance_scale": (5.0, 1.0, 7.5)[number % 3]}
        for number, sampler in enumerate((*PLAIN, *(PAIRS if alias == "sd" else ())))
    ]
    # Many pictures: a quarter of the pixels take two thirds of the time.
    specs = [models.specs(name, 1, width=32, height=32, **kind)[0] for kind in kinds]
    loop = loop_of(model)
    slots = [loop.admit(spec) for spec in specs]
    assert [slot.calls for slot in slots] == [model_calls(spec, models.registry[name]) for spec in specs]
    for spec, picture in zip(specs, drawn(loop, slots), strict=True):
        assert_replays(loop, spec, picture)
        theirs = model.render([spec], lambda: None)
        assert largest_difference(array(picture), np.asarray(theirs.pictures[0]).astype(np.int16)) <= 1, spec
        assert {key: value for key, value in picture.recipe.items() if key not in ("calls", "decoded")} == theirs.recipe


CONTROLS: list[tuple[str, dict[str, Any]]] = [
    ("sd", {"eta": 1.0, "sampler": "ddim"}),
    ("sd", {"clip_skip": 1}),
    ("sd", {"prompt_weighting": "compel", "prompt": "a (red)1.8 star " * 20}),
    ("sd", {"prompt_weighting": "webui", "prompt": "a (red:1.8) star"}),
    ("sd", {"width": 96, "height": 72}),
    ("sd", {"loras": {"ink": 0.3, "oil": -0.2}}),
    ("sdxl", {"prompt_weighting": "compel", "prompt": "a (red)1.8 star"}),
    ("sdxl", {"original_size": [512, 256], "crops_coords_top_left": [32, 0], "target_size": [128, 128]}),
    ("sd-control", {"controlnet_conditioning_scale": 0.3}),
    ("sd-control", {"control_guidance_start": 0.5}),
    ("sd-control", {"guess_mode": True}),
    ("sdxl-control", {"guess_mode": True, "controlnet_conditioning_scale": 0.1}),
    ("sdxl-control", {"control_guidance_end": 0.5}),
    ("sd-two", {"controlnet_conditioning_scale": [1.0, 0.2], "control_guidance_start": [0.0, 0.4]}),
    ("sdxl-two", {"controlnet_conditioning_scale": [0.0, 0.02], "guess_mode": True}),
]


@pytest.mark.parametrize(("alias", "fields"), CONTROLS, ids=lambda part: part if isinstance(part, str) else min(part))
def test_every_control_does_in_slots_what_it_does_in_a_pipeline(
    models: Models, loaded: Loader, alias: str, fields: dict[str, Any]
) -> None:
    model = loaded(alias)
    loop = loop_of(model)
    # Other steps, guidance and samplers beside them: windows are shares of each picture's own steps.
    beside = models.specs(alias, 2, num_inference_steps=2, guidance_scale=1.0, **({"sampler": "heun"} | fields))
    specs = [*models.specs(alias, 1, negative_prompt="blue", **fields), *beside[1:]]
    for spec, picture in zip(specs, rendered(loop, specs), strict=True):
        assert largest_difference(array(picture), pixels(model, [spec])[0]) <= 1
        assert_replays(loop, spec, picture)


#: Which of four steps the ControlNets have a part in, and how often they are called then.
SHARES: list[tuple[str, dict[str, Any], int]] = [
    ("sd-control", {"control_guidance_start": 0.5}, 2),
    ("sd-control", {"control_guidance_end": 0.25, "guess_mode": True}, 1),
    ("sdxl-control", {"control_guidance_end": 0.5}, 2),
    ("sdxl-two", {"controlnet_conditioning_scale": [0.0, 0.3], "control_guidance_end": [1.0, 0.5]}, 2),
    ("sd-two", {"controlnet_conditioning_scale": [0.5, 0.0]}, 4),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("alias", "fields", "calls"), SHARES, ids=lambda part: part if isinstance(part, str) else None)
def test_a_controlnet_without_a_part_in_a_call_is_left_out_of_it_to_the_same_bits(
    models: Models, alias: str, fields: dict[str, Any], calls: int, dtype: torch.dtype
) -> None:
    model: Any = models.load(alias)
    model.pipeline.to(dtype)
    loop: Any = loop_of(model)
    made: list[str] = []
    for net in getattr(model.pipeline.controlnet, "nets", [model.pipeline.controlnet]):
        net.register_forward_hook(lambda *_: made.append("called"))
    specs = models.specs(alias, 2, num_inference_steps=4, **fields)
    latents: dict[bool, list[torch.Tensor]] = {}
    for always in (True, False):
        # As where what is left out would have to be compiled.
        loop._unet._compiled = always
        made.clear()
        slots: list[Any] = [loop.admit(spec) for spec in specs]
        while slots[0].made < slots[0].calls:
            assert loop.tick(slots) == {}
        latents[always] = [slot.latents.clone() for slot in slots]
        assert len(made) == (4 * ("two" in alias) + 4 if always else calls)
    for one, other in zip(latents[True], latents[False], strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_what_rows_are_conditioned_by_is_put_together_when_they_change(
    models: Models, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int | None]] = []
    embedded = DiffusersSlot.embedded

    def counted(slot: DiffusersSlot, name: str, part: int | None) -> torch.Tensor:
        asked.append((name, part))
        return embedded(slot, name, part)

    monkeypatch.setattr(DiffusersSlot, "embedded", counted)
    loop = loop_of(loaded("sd"))
    one, other = (loop.admit(spec) for spec in models.specs("sd", 2, num_inference_steps=6))
    counts = []
    for called in ([one], [one], [one, other], [one, other], [other]):
        asked.clear()
        loop.tick(called)
        counts.append(len(asked))
    assert counts == [2, 0, 4, 0, 2]


def test_a_text_that_is_read_to_its_end_is_measured_once(
    models: Models, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def noted(pipeline: Any, spec: Spec, *given: Any) -> Any:
        measured.append(spec.prompt)
        return unread_words(pipeline, spec, *given)

    monkeypatch.setattr("worker.rendering.prompts.unread_words", noted)
    short, long = "a star that nobody drew", "a very long story, " * 30
    loop = loop_of(loaded("sd"))
    asked = [{"prompt": prompt, "width": 32, "height": 32} for prompt in (short, short, long, long)]
    pictures = rendered(loop, [models.specs("sd", 1, num_inference_steps=1, **fields)[0] for fields in asked])
    assert measured == [short, long, long]
    assert [len(picture.remarks) for picture in pictures] == [0, 0, 1, 1]


@pytest.mark.parametrize("mean", [None, [0.1, -0.1, 0.2, 0.0]])
def test_latents_are_decoded_as_the_model_says(models: Models, mean: list[float] | None) -> None:
    model: Any = models.load("sdxl")
    if mean:
        model.pipeline.vae.register_to_config(latents_mean=mean, latents_std=[0.9, 1.0, 1.1, 1.2])
    [spec] = models.specs("sdxl")
    [picture] = rendered(loop_of(model), [spec])
    assert largest_difference(array(picture), pixels(model, [spec])[0]) <= 1


def test_half_precision_is_decoded_in_single_precision_where_the_vae_needs_it(models: Models) -> None:
    model: Any = models.load("sdxl")
    model.pipeline.to(torch.float16)
    model._recipe = {**model._recipe, "dtype": "float16"}
    assert model.pipeline.vae.config.force_upcast
    specs = models.specs("sdxl", 3)
    pictures = rendered(loop_of(model), specs)
    assert model.pipeline.vae.dtype == torch.float16
    for spec, picture in zip(specs, pictures, strict=True):
        assert picture.recipe["dtype"] == "float16"
        assert_replays(loop_of(model), spec, picture)
    with pytest.warns(FutureWarning, match="upcast_vae"):
        theirs = pixels(model, specs[:1])[0]
    assert largest_difference(array(pictures[0]), theirs) <= 4  # rounding of half precision


# -- shapes and recipes ----------------------------------------------------------------------------------------


def test_calls_have_few_shapes() -> None:
    shapes = [filled_up(rows, compiled=False) for rows in range(1, 34)]
    assert sorted(set(shapes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert all(rows <= shape < rows * 1.5 for rows, shape in enumerate(shapes, 1))
    assert {filled_up(rows, compiled=True) for rows in range(1, 34)} == {1, 2, 4, 8, 16, 32, 64}


def test_a_recipe_has_runs_of_equal_calls(models: Models, loaded: Loader) -> None:
    loop = loop_of(loaded("sd"))
    specs = [models.specs("sd", num_inference_steps=steps)[0] for steps in (2, 4, 4)]
    found = [picture.recipe for picture in rendered(loop, specs, threads=1)]
    assert [recipe["calls"] for recipe in found] == [
        [[6, 1, 0, 2]],
        [[6, 1, 2, 2], [4, 1, 0, 2]],
        [[6, 1, 4, 2], [4, 1, 2, 2]],
    ]
    assert [recipe["decoded"] for recipe in found] == [[2, 0], [2, 1], [1, 0]]
    assert {recipe["threads"] for recipe in found} == {1}


@pytest.mark.parametrize(
    "replay",
    [
        Replay(calls=((2, 1, 0, 2),), decoded=(1, 0)),
        Replay(calls=((2, 1, 1, 3),), decoded=(1, 0)),
        Replay(calls=((2, 1, 0, 3),), decoded=(1, 1)),
    ],
)
def test_calls_that_do_not_fit_the_picture_are_refused(models: Models, loaded: Loader, replay: Replay) -> None:
    with pytest.raises(RenderFailed, match="calls cannot be made again"):
        loop_of(loaded("sd")).admit(models.specs("sd")[0], replay=replay)


def test_embeddings_are_made_by_as_many_threads_as_the_first_call(models: Models, loaded: Loader) -> None:
    model: Any = loaded("sd")
    [spec] = models.specs("sd")
    encodings: list[int] = []
    hook = model.pipeline.text_encoder.register_forward_hook(lambda *_: encodings.append(torch.get_num_threads()))
    own, loop = model._recipe["threads"], loop_of(model)
    try:
        model._prompts.forget()
        [picture] = drawn(loop, [loop.admit(spec)], threads=own + 1)
        assert set(encodings) == {own, own + 1}
        assert picture.recipe["threads"] == own + 1
        model._prompts.forget()
        encodings.clear()
        assert_replays(loop_of(model), spec, picture)
        assert set(encodings) == {own + 1}
    finally:
        hook.remove()


def test_adapters_are_switched_when_others_take_their_turn(models: Models) -> None:
    model = models.load("sd")
    loop, loras = loop_of(model), (None, {"ink": 1.0}, {"oil": 0.5})
    specs = [models.specs("sd", 1, **({"loras": kind} if kind else {}))[0] for kind in loras]
    slots = [loop.admit(spec) for spec in specs]
    for _ in range(3):
        for slot in slots:
            assert loop.tick([slot]) == {}
    for spec, picture in zip(specs, drawn(loop, slots), strict=True):
        assert largest_difference(array(picture), pixels(model, [spec])[0]) <= 1
        assert picture.recipe.get("loras", {}).keys() == (spec.loras or {}).keys()


def test_slices_are_decoded_one_by_one(models: Models) -> None:
    model = models.load("sd")
    assert model.save_memory()
    specs = models.specs("sd", 2)
    for spec, picture in zip(specs, rendered(loop_of(model), specs), strict=True):
        assert (picture.recipe["vae"], picture.recipe["decoded"]) == ("sliced and tiled", [1, 0])
        assert_replays(loop_of(model), spec, picture)


def test_what_is_to_be_said_of_a_picture_is_said(models: Models, loaded: Loader) -> None:
    specs = [models.specs("sd")[0], models.specs("sd", prompt="a very long story, " * 60)[0]]
    short, long = rendered(loop_of(loaded("sd")), specs)
    assert short.remarks == ()
    assert long.remarks == loaded("sd").render(specs[1:], lambda: None).remarks[0] != ()


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "change", "said"),
    [
        ("sd", {"clip_skip": 20}, "clip_skip: at most"),
        ("sd", {"sampler": "lcm", "num_inference_steps": 51}, "50"),
        ("sd", {"loras": {"gone": 1.0}}, "no LoRA named 'gone'"),
        ("sd-two", {"control_images": None}, "0 given, the model has 2 ControlNets"),
        ("sd-two", {"control_guidance_end": (1.0, 0.5, 0.2)}, "control_guidance_end: 3 numbers"),
    ],
)
def test_a_picture_that_cannot_be_made_is_not_admitted(
    models: Models, loaded: Loader, alias: str, change: dict[str, Any], said: str
) -> None:
    [spec] = models.specs(alias)
    with pytest.raises(RenderFailed, match=said):
        loop_of(loaded(alias)).admit(spec.model_copy(update=change))


def test_slots_are_ticked_until_they_are_made_and_no_further(models: Models, loaded: Loader) -> None:
    loop, [spec] = loop_of(loaded("sd")), models.specs("sd")
    slot = loop.admit(spec)
    with pytest.raises(ValueError, match="not all calls"):
        loop.develop([slot])
    [picture] = drawn(loop, [slot])
    with pytest.raises(ValueError, match="already"):
        loop.tick([slot])
    again = loop.admit(spec, replay=replay_of(picture.recipe))
    with pytest.raises(ValueError, match="alone"):
        loop.tick([again, loop.admit(spec)])


# -- which models have slots -----------------------------------------------------------------------------------


def reasons(caplog: pytest.LogCaptureFixture, model: LoadedModel) -> list[str]:
    with caplog.at_level(logging.INFO, "worker.rendering.pipeline"):
        assert model.slots() is None
        assert model.slots() is None
    return [vars(record)["reason"] for record in caplog.records if record.name == "worker.rendering.pipeline"]


def test_other_pipelines_have_no_slots_and_say_so_once(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    assert reasons(caplog, models.load("kandinsky")) == ["KandinskyV22CombinedPipeline has its own loop"]
    caplog.clear()
    subclass: Any = models.load("sd")
    subclass.pipeline = StableDiffusionPAGPipeline(**subclass.pipeline.components)
    assert reasons(caplog, subclass) == ["StableDiffusionPAGPipeline has its own loop"]


def test_an_offloaded_model_has_no_slots(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = models.load("sd")
    add_hook_to_module(model.pipeline.unet, ModelHook())
    assert reasons(caplog, model) == ["parts of it wait in the computer's memory"]


def test_a_model_whose_rows_depend_on_their_neighbours_has_no_slots(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = models.load("sd")
    forward = model.pipeline.unet.forward

    def leaking(*given: Any, **named: Any) -> Any:
        # As where activations are quantised by the largest value of all rows.
        [found] = forward(*given, **named)
        return (found + 1e-6 * found.abs().amax(),)

    model.pipeline.unet.forward = leaking
    assert reasons(caplog, model) == ["the last bits of a picture depend on its neighbours"]


def test_a_seed_is_the_same_noise_as_in_a_pipeline(models: Models, loaded: Loader) -> None:
    [spec] = models.specs("sd")
    specs: list[Spec] = [spec.model_copy(update={"seed": seed}) for seed in (5, 5 + 2**32, 6)]
    first, same, other = map(array, rendered(loop_of(loaded("sd")), specs))
    assert np.array_equal(first, same)
    assert largest_difference(first, other) > 1
