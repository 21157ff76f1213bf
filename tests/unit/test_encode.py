"""Pictures as files."""

import io
import json

import pytest
from PIL import Image
from sd_parsers import ParserManager

from scheduler.results.conversion import converted
from scheduler.results.signed_urls import Format
from storage.spec.infotext import infotext
from storage.spec.picture import Spec
from worker.rendering.simulated import draw
from worker.serving.encode import to_png

SPEC = Spec(
    model="tiny",
    prompt="a red ☆ star, 星",
    negative_prompt="blurry",
    width=64,
    height=48,
    num_inference_steps=20,
    guidance_scale=7.0,
    sampler="dpm++ 2m karras",
    seed=2**63 - 1,
)
RECIPE = {"farm": "0.1.0", "torch": "2.13.0"}


def test_a_picture_is_stored_without_loss_and_with_its_recipe() -> None:
    picture = draw(SPEC)
    with Image.open(io.BytesIO(to_png(picture, SPEC, RECIPE))) as stored:
        assert stored.tobytes() == picture.tobytes()
        assert json.loads(stored.info["diffusion-farm"]) == {"spec": SPEC.fields(), "made_with": RECIPE}
        assert stored.info["parameters"] == infotext(SPEC, RECIPE)


def test_the_same_picture_and_recipe_give_the_same_bytes() -> None:
    assert to_png(draw(SPEC), SPEC, RECIPE) == to_png(draw(SPEC), SPEC, RECIPE)


def test_the_parameters_line_is_what_galleries_read() -> None:
    assert infotext(SPEC, RECIPE) == (
        "a red ☆ star, 星\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 9223372036854775807, Size: 64x48, "
        "Model: tiny, Version: diffusion-farm 0.1.0"
    )


@pytest.mark.parametrize(("negative", "lines"), [("", 2), ("blurry", 3)])
def test_an_empty_negative_prompt_has_no_line(negative: str, lines: int) -> None:
    spec = SPEC.model_copy(update={"negative_prompt": negative, "sampler": None})
    assert infotext(spec, RECIPE).count("\n") == lines - 1


@pytest.mark.parametrize(
    ("scheduler", "config", "name", "schedule"),
    [
        ("EulerDiscreteScheduler", {}, "Euler", None),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "Euler", "Karras"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True, "use_karras_sigmas": False}, "Euler", "Beta"),
        ("PNDMScheduler", {"skip_prk_steps": True}, "PNDM", None),
        ("DDPMScheduler", {}, "DDPM", None),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, "DPM++ 2M", None),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE", None),
        ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ SDE", None),
        ("NewThingScheduler", {}, "NewThing", None),
        (None, None, "Default", None),
    ],
)
def test_a_models_own_sampler_is_named_too(
    scheduler: str | None, config: dict[str, object] | None, name: str, schedule: str | None
) -> None:
    recipe = RECIPE if scheduler is None else {**RECIPE, "scheduler": scheduler, "scheduler_config": config}
    text = infotext(SPEC.model_copy(update={"sampler": None}), recipe)
    assert f"Sampler: {name}, " in text
    assert (f"Schedule type: {schedule}" in text) == (schedule is not None)


_KEPT: list[Image.Image] = []
FULL = SPEC.model_copy(
    update={
        "clip_skip": 1,
        "eta": 0.5,
        "loras": {"ink": 0.8, "oil.v2": 1.0},
        "prompt": "a star",
        "control_images": (f"sha256:{'0' * 64}",),
        "prompt_weighting": "webui",
    }
)
FULL_RECIPE = {
    **RECIPE,
    "sha256": "0a1b2c3d4e5f" * 5,
    "vae_source": "better.safetensors",
    "loras": {"ink": {"past_header": "cd" * 32}, "oil.v2": {"past_header": "12" * 32}},
    "embeddings": {"star": {"sha256": "ef" * 32}},
    "controlnets": ["control_canny [0a1b2c3d]"],
}


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("spec", [SPEC, FULL, SPEC.model_copy(update={"sampler": None})], ids=["usual", "full", "own"])
def test_galleries_find_the_settings_in_every_format(form: Format, spec: Spec) -> None:
    made_with = FULL_RECIPE if spec is FULL else RECIPE
    data = to_png(draw(spec), spec, made_with)
    if form != "png":
        with Image.open(io.BytesIO(data)) as picture:
            data = converted(picture, form, 90)
    opened = Image.open(io.BytesIO(data))
    # The parser knows the last JPEG by its address in memory, which must not be given to the next one.
    _KEPT.append(opened)
    found = ParserManager().parse(opened)
    assert found is not None
    [sampler] = found.samplers
    text = infotext(spec, made_with)
    assert [prompt.value for prompt in sampler.prompts] == [text.splitlines()[0]]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry"]
    assert sampler.name == ("DPM++ 2M" if spec.sampler else "Default")
    assert (sampler.parameters["seed"], sampler.parameters["steps"]) == (str(spec.seed), "20")
    assert sampler.model is not None
    assert sampler.model.name == "tiny"
    assert ("Karras" in sampler.parameters.values()) == (spec.sampler is not None)
    if spec is FULL:
        assert text.splitlines()[0] == "a star <lora:ink:0.8> <lora:oil.v2:1>"
        assert found.metadata["Clip skip"] == "2"
        assert found.metadata["Eta"] == "0.5"
        # Not the ControlNet's, though this reader takes the last "Model:".
        assert sampler.model.hash == "0a1b2c3d4e"
        assert found.metadata["VAE"] == "better.safetensors"


def test_simulated_pictures_are_a_function_of_the_specification_alone() -> None:
    other = SPEC.model_copy(update={"seed": 1})
    assert draw(SPEC).tobytes() == draw(SPEC).tobytes() != draw(other).tobytes()
    assert draw(SPEC).size == (64, 48)
