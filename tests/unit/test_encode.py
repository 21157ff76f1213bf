"""Pictures as files."""

import io
import json

import pytest
from PIL import Image

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
        assert stored.info["parameters"] == infotext(SPEC, version="0.1.0")


def test_the_same_picture_and_recipe_give_the_same_bytes() -> None:
    assert to_png(draw(SPEC), SPEC, RECIPE) == to_png(draw(SPEC), SPEC, RECIPE)


def test_the_parameters_line_is_what_galleries_read() -> None:
    assert infotext(SPEC, version="0.1.0") == (
        "a red ☆ star, 星\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 9223372036854775807, Size: 64x48, "
        "Model: tiny, Version: diffusion-farm 0.1.0"
    )


@pytest.mark.parametrize(("negative", "lines"), [("", 2), ("blurry", 3)])
def test_an_empty_negative_prompt_has_no_line(negative: str, lines: int) -> None:
    spec = SPEC.model_copy(update={"negative_prompt": negative, "sampler": None})
    text = infotext(spec, version="1")
    assert text.count("\n") == lines - 1
    assert "Sampler" not in text


def test_simulated_pictures_are_a_function_of_the_specification_alone() -> None:
    other = SPEC.model_copy(update={"seed": 1})
    assert draw(SPEC).tobytes() == draw(SPEC).tobytes() != draw(other).tobytes()
    assert draw(SPEC).size == (64, 48)
