"""Every model and control of the guide through the worker's own code, on small pipelines of the real classes."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from storage.errors import RenderFailed
from storage.objects.inputs import put_input
from storage.spec.models import Lora
from tests.pipelines.conftest import Models
from tests.pipelines.pixels import largest_difference, pixels
from worker.rendering import learn_capabilities
from worker.rendering.backend import LoadedModel
from worker.rendering.weights import hash_tensors

Loader = Callable[[str], LoadedModel]
EVERY = ["sd", "sdxl", "kandinsky", "sd-control", "sd-two", "sdxl-control", "sdxl-two"]


# -- what pipelines take ---------------------------------------------------------------------------------------


def test_the_table_of_controls_is_what_the_installed_pipelines_take() -> None:
    written = json.loads(files("storage.spec").joinpath("pipelines.json").read_text())
    assert written == learn_capabilities.table(), (
        "run: python -m worker.rendering.learn_capabilities > storage/spec/pipelines.json"
    )


# -- batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", EVERY)
def test_a_picture_does_not_depend_on_its_neighbours_beyond_rounding(
    models: Models, loaded: Loader, alias: str
) -> None:
    model, wanted = loaded(alias), models.specs(alias, 8)
    strangers = models.specs(alias, 11)[8:]

    together = pixels(model, wanted)
    alone = np.concatenate([pixels(model, [spec]) for spec in wanted])
    among_strangers = pixels(model, [*strangers, *wanted[::-1]])[3:][::-1]

    assert (pixels(model, wanted) == together).all()
    assert largest_difference(together, alone) <= 1
    assert largest_difference(together, among_strangers) <= 1
    assert len(np.unique(together.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_a_long_neighbour_does_not_lengthen_a_weighted_prompt(models: Models, loaded: Loader, alias: str) -> None:
    short = models.specs(alias, 2, prompt_weighting="compel", prompt="a (red)1.4 star")
    long = models.specs(alias, 1, prompt_weighting="compel", prompt="a very long story, " * 60)
    model = loaded(alias)
    among = pixels(model, [short[0], *long, short[1]])
    assert largest_difference(among[[0, 2]], pixels(model, short)) <= 1
    assert largest_difference(among[[1]], pixels(model, long)) <= 1


def test_negative_prompts_of_kandinsky_stay_with_their_pictures(models: Models, loaded: Loader) -> None:
    model, plain = loaded("kandinsky"), models.specs("kandinsky", 3)
    mixed = [plain[0], plain[1].model_copy(update={"negative_prompt": "blue"}), plain[2]]
    together = pixels(model, mixed)
    assert largest_difference(together, np.concatenate([pixels(model, [spec]) for spec in mixed])) <= 1
    assert largest_difference(together[1], pixels(model, plain)[1]) > 1


@pytest.mark.filterwarnings("ignore:.callback_steps.:FutureWarning")  # Kandinsky's own
def test_one_picture_is_what_diffusers_makes_of_the_same_arguments(models: Models, loaded: Loader) -> None:
    for alias, negative in (("sd", "blue"), ("sdxl", None), ("kandinsky", "blue"), ("kandinsky", None)):
        model: Any = loaded(alias)
        [spec] = models.specs(alias, 1, negative_prompt=negative or "")
        ours = pixels(model, [spec])[0]
        theirs = model.pipeline(
            prompt=spec.prompt,
            negative_prompt=negative,
            width=64,
            height=64,
            num_inference_steps=3,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(spec.seed),
        ).images[0]
        assert largest_difference(ours, np.asarray(theirs).astype(np.int16)) <= 1, alias


# -- controls --------------------------------------------------------------------------------------------------

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("sd", {"eta": 1.0, "sampler": "ddim"}),
    ("sd", {"clip_skip": 1}),
    ("sd", {"prompt_weighting": "compel", "prompt": "a (red)1.8 star 0"}),
    ("sd", {"prompt_weighting": "compel", "prompt": '("a red star 0", "a blue cross").blend(0.5, 0.5)'}),
    ("sdxl", {"prompt_weighting": "compel", "prompt": "a (red)1.8 star 0"}),
    ("sdxl", {"clip_skip": 1}),
    ("sdxl", {"original_size": [512, 256]}),
    ("sdxl", {"crops_coords_top_left": [32, 0]}),
    ("sdxl", {"target_size": [128, 128]}),
    ("kandinsky", {"prior_num_inference_steps": 2}),
    ("kandinsky", {"prior_guidance_scale": 9.0}),
    ("sd-control", {"controlnet_conditioning_scale": 0.3}),
    ("sd-control", {"control_guidance_start": 0.5}),
    ("sd-control", {"control_guidance_end": 0.5}),
    ("sd-control", {"guess_mode": True}),
    ("sdxl-control", {"controlnet_conditioning_scale": 0.01}),
    ("sdxl-control", {"control_guidance_end": 0.5}),
    ("sdxl-two", {"controlnet_conditioning_scale": [1.0, 0.2]}),
]


@pytest.mark.parametrize(("alias", "fields"), CHANGES, ids=lambda part: part if isinstance(part, str) else min(part))
def test_a_control_changes_the_picture(models: Models, loaded: Loader, alias: str, fields: dict[str, Any]) -> None:
    plain, changed = models.specs(alias, 2), models.specs(alias, 2, **fields)
    model = loaded(alias)
    assert largest_difference(pixels(model, plain)[0], pixels(model, changed)[0]) > 1


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_the_image_of_a_controlnet_steers_and_a_second_one_at_scale_zero_does_not(
    models: Models, loaded: Loader, alias: str
) -> None:
    first, second, third = (models.image(seed) for seed in (50, 51, 52))

    def drawn(model: str, images: list[str], **fields: object) -> Any:
        return pixels(loaded(model), models.specs(f"{model}", 2, control_images=images, **fields))

    alone = drawn(f"{alias}-control", [first])
    assert largest_difference(alone, drawn(f"{alias}-control", [second])) > 1
    both = drawn(f"{alias}-two", [first, second], controlnet_conditioning_scale=[1.0, 0.0])
    assert largest_difference(both, alone) <= 1
    assert largest_difference(drawn(f"{alias}-two", [first, third]), drawn(f"{alias}-two", [first, second])) > 1


# -- embeddings ------------------------------------------------------------------------------------------------


def stored(models: Models, **tensors: torch.Tensor) -> str:
    return put_input(models.objects, safetensors.torch.save(tensors))


def test_embeddings_brought_along_draw_what_their_prompt_draws(models: Models, loaded: Loader) -> None:
    model: Any = loaded("sdxl")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    [spec] = models.specs("sdxl", 1, negative_prompt="blue")
    with torch.inference_mode():
        found = model.pipeline.encode_prompt(spec.prompt, negative_prompt="blue", device="cpu")
    tensors = {name: tensor[0].clone() for name, tensor in zip(names, found, strict=True)}
    [brought] = models.specs("sdxl", 1, prompt=None, prompt_embeds=stored(models, **tensors))
    assert largest_difference(pixels(model, [brought]), pixels(model, [spec])) <= 1


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"prompt_embeds": torch.zeros(77, 33), "negative_prompt_embeds": torch.zeros(77, 32)}, r"77×33, .* 1×n×32"),
        ({"prompt_embeds": torch.zeros(77, 32)}, "guidance_scale above 1, .* negative_prompt_embeds"),
        (
            {"prompt_embeds": torch.zeros(77, 32), "negative_prompt_embeds": torch.zeros(154, 32)},
            "lengths differ",
        ),
    ],
)
def test_embeddings_that_do_not_fit_fail_with_the_reason(
    models: Models, loaded: Loader, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    [spec] = models.specs("sd", 1, prompt=None, prompt_embeds=stored(models, **tensors))
    with pytest.raises(RenderFailed, match=reason):
        loaded("sd").render([spec], lambda: None)


def test_an_input_that_is_not_stored_fails_with_its_name(models: Models, loaded: Loader) -> None:
    gone = "sha256:" + "0" * 64
    [spec] = models.specs("sd-control", 1, control_images=[gone])
    with pytest.raises(RenderFailed, match=f"input {gone} is not in the store"):
        loaded("sd-control").render([spec], lambda: None)


# -- LoRAs -----------------------------------------------------------------------------------------------------


def test_loras_are_switched_on_and_off_by_job(models: Models) -> None:
    model = models.load("sd")

    def drawn(**loras: float) -> Any:
        return pixels(model, models.specs("sd", 2, **({"loras": loras} if loras else {})))

    plain, ink, both = drawn(), drawn(ink=1.0), drawn(ink=1.0, oil=0.5)
    assert min(largest_difference(plain, ink), largest_difference(ink, both), largest_difference(plain, both)) > 1
    assert largest_difference(drawn(ink=0.2), ink) > 1
    assert largest_difference(drawn(ink=0.0), plain) <= 1
    assert (drawn(ink=1.0) == ink).all()
    assert (drawn() == plain).all()


def test_the_recipe_tells_one_loras_weights_from_anothers(models: Models) -> None:
    model = models.load("sd")

    def recipe(**loras: float) -> Any:
        return model.render(models.specs("sd", 1, loras=loras), lambda: None).recipe["loras"]

    both = recipe(ink=1.0, oil=0.5)
    assert {alias: lora["scale"] for alias, lora in both.items()} == {"ink": 1.0, "oil": 0.5}
    assert both["ink"]["weights"] != both["oil"]["weights"]
    again = models.load("sd")
    assert again.render(models.specs("sd", 1, loras={"oil": 0.5}), lambda: None).recipe["loras"] == {"oil": both["oil"]}


def test_a_lora_of_one_model_does_not_show_in_another_that_shares_its_weights(models: Models) -> None:
    plain = models.load("sd")
    controlled = models.load("sd-control", plain)
    assert controlled.pipeline.unet is plain.pipeline.unet  # type: ignore[attr-defined]
    before = pixels(controlled, models.specs("sd-control", 2))
    pixels(plain, models.specs("sd", 2, loras={"ink": 1.0}))
    assert (pixels(controlled, models.specs("sd-control", 2)) == before).all()


def test_a_lora_that_is_not_there_fails_with_the_reason(models: Models, tmp_path: Path) -> None:
    model = models.load("sd")
    model.adapters._known = {"ink": Lora(alias="ink", source=str(tmp_path))}  # type: ignore[attr-defined]
    with pytest.raises(RenderFailed, match="loras: ink .* cannot be loaded"):
        model.render(models.specs("sd", 1, loras={"ink": 1.0}), lambda: None)


# -- half precision --------------------------------------------------------------------------------------------


def test_what_half_precision_spoils_is_made_again_in_single_precision(models: Models) -> None:
    model: Any = models.load("sd")
    pipeline = model.pipeline.to(torch.bfloat16)
    model._recipe = {**model._recipe, "dtype": "bfloat16"}
    whole, decode = models.specs("sd", 3), pipeline.vae.decode

    def overflowing(latents: torch.Tensor, *given: Any, **named: Any) -> Any:
        made = decode(latents, *given, **named)
        return [part * torch.nan if latents.dtype == torch.bfloat16 else part for part in made]

    pipeline.vae.decode = overflowing
    with pytest.raises(RenderFailed, match="black or not finite"):
        model.render(whole, lambda: None)  # its jobs are then rendered alone
    rendered = model.render(whole[:1], lambda: None)
    assert rendered.recipe["dtype"] == "float32"
    assert "bfloat16" in rendered.recipe["because"]
    assert np.asarray(rendered.pictures[0]).std() > 1
    assert pipeline.unet.dtype == torch.bfloat16


def test_a_picture_that_is_never_finite_fails(models: Models) -> None:
    model: Any = models.load("sd")
    decode = model.pipeline.vae.decode
    model.pipeline.vae.decode = lambda *given, **named: [part * torch.nan for part in decode(*given, **named)]
    with pytest.raises(RenderFailed, match="not finite"):
        model.render(models.specs("sd", 1), lambda: None)


# -- the safety checker ----------------------------------------------------------------------------------------


def test_a_safety_checker_that_nobody_asked_for_is_left_out(models: Models) -> None:
    model: Any = models.load("sd-unchecked")
    assert model.pipeline.safety_checker is None
    assert "safety_checker" not in model.render(models.specs("sd-unchecked"), lambda: None).recipe


def test_the_safety_checkers_verdict_is_recorded_and_what_it_flags_fails(models: Models) -> None:
    model: Any = models.load("sd-checked")
    rendered = model.render(models.specs("sd-checked", 2), lambda: None)
    assert rendered.recipe["safety_checker"] == "passed"
    assert np.asarray(rendered.pictures[0]).std() > 1

    torch.nn.init.constant_(model.safety._checker.concept_embeds_weights, -1.0)  # now it flags everything
    with pytest.raises(RenderFailed, match="safety checker flags"):
        model.render(models.specs("sd-checked"), lambda: None)


# -- weights ---------------------------------------------------------------------------------------------------


def test_the_recipe_names_the_weights_by_their_bytes(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(alias: str) -> str:
        return str(models.load(alias).render(models.specs(alias), lambda: None).recipe["weights"])

    found = {alias: hashed(alias) for alias in ("sd", "sd-control", "sdxl")}
    assert len(set(found.values())) == 3
    # Worked out once, then known.
    monkeypatch.setattr("worker.rendering.weights.hash_tensors", lambda _: "anew")
    assert {alias: hashed(alias) for alias in found} == found


def test_one_changed_weight_changes_the_hash(models: Models) -> None:
    pipeline: Any = models.load("sd").pipeline  # type: ignore[attr-defined]
    before = hash_tensors(pipeline)
    assert hash_tensors(pipeline) == before
    next(pipeline.unet.parameters()).data[0] += 1
    assert hash_tensors(pipeline) != before


def test_a_loaded_lora_does_not_change_the_hash_of_the_weights(models: Models) -> None:
    model: Any = models.load("sd")
    before = hash_tensors(model.pipeline)
    model.render(models.specs("sd", loras={"ink": 1.0}), lambda: None)
    assert hash_tensors(model.pipeline) == before
