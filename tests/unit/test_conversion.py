"""JPEG and WebP made of stored pictures: what they carry, and for whom."""

import io
import json
from typing import Any, Literal

import piexif
import piexif.helper
import pytest
from PIL import Image

from scheduler.results.conversion import converted
from storage.objects.pixels import pixels_sha256
from storage.spec.carried_recipe import NAMESPACE, packet, recipe_in
from storage.spec.infotext import infotext
from storage.spec.picture import Spec
from worker.rendering.simulated import draw
from worker.serving.encode import to_png

Lossy = Literal["jpeg", "webp"]
SPEC = Spec(
    model="tiny",
    prompt='a "red" ☆ star, 星 & <b>,\n(night:1.2) \x85\x7f\ufffe',
    negative_prompt="blurry",
    width=64,
    height=48,
    num_inference_steps=20,
    guidance_scale=7.0,
    sampler="dpm++ 2m karras",
    seed=2**63 - 1,
)
RECIPE = {"farm": "0.1.0", "torch": "2.13.0"}


def carried(spec: Spec, form: Lossy, made_with: dict[str, Any] = RECIPE) -> tuple[str, dict[str, Any] | None]:
    """Return what galleries read of a converted picture, by the library that the web UI reads with, and its recipe."""
    with Image.open(io.BytesIO(to_png(draw(spec), spec, made_with))) as picture:
        data = converted(picture, form, 90)
    with Image.open(io.BytesIO(data)) as picture:
        exif, xmp = picture.info["exif"], picture.info.get("xmp")
    recipe = None if xmp is None else recipe_in(xmp)
    comment = piexif.load(exif)["Exif"][piexif.ExifIFD.UserComment]
    return piexif.helper.UserComment.load(comment), None if recipe is None else json.loads(recipe)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_converted_picture_carries_its_recipe_and_what_galleries_read(form: Lossy) -> None:
    text, recipe = carried(SPEC, form)
    assert text == infotext(SPEC, RECIPE)
    assert recipe == {"spec": SPEC.fields(), "made_with": RECIPE, "pixels_sha256": pixels_sha256(draw(SPEC))}


@pytest.mark.parametrize("letter", ["a", "星", "<"])
@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_prompts_as_long_as_they_may_be_are_carried_whole(form: Lossy, letter: str) -> None:
    spec = SPEC.model_copy(update={"prompt": letter * 10_000, "negative_prompt": "b" * 10_000})
    text, recipe = carried(spec, form)
    assert text == infotext(spec, RECIPE)
    assert recipe is not None
    assert recipe["spec"] == spec.fields()


def test_what_does_not_fit_into_a_jpeg_is_said_in_it_and_fits_into_a_webp() -> None:
    spec = SPEC.model_copy(update={"prompt": "🌕" * 10_000, "negative_prompt": "🌒" * 10_000})
    text, recipe = carried(spec, "jpeg")
    assert text.startswith("Steps: 20, Sampler: DPM++ 2M, ")
    assert text.endswith('Left out: "the recipe and the prompts, longer than a JPEG can hold; the PNG has all"')
    assert recipe is None
    text, recipe = carried(spec, "webp")
    assert text == infotext(spec, RECIPE)
    assert recipe is not None


def test_a_recipe_alone_may_be_too_long() -> None:
    text, recipe = carried(SPEC, "jpeg", {**RECIPE, "calls": [[number] * 4 for number in range(10_000)]})
    assert text == f'{infotext(SPEC, RECIPE)}, Left out: "the recipe, longer than a JPEG can hold; the PNG has all"'
    assert recipe is None


def test_a_recipe_is_found_as_other_programs_write_the_packet_again() -> None:
    recipe = '{"a": "<&>\\"\'"}'
    assert recipe_in(packet(recipe)) == recipe
    attribute = recipe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert recipe_in(f'<rdf:Description xmlns:ns1="{NAMESPACE}" ns1:recipe="{attribute}"/>'.encode()) == recipe
    assert recipe_in(b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:title="a"/>') is None
    assert recipe_in(f'<rdf:Description xmlns:farm="{NAMESPACE}"/>'.encode()) is None
    assert recipe_in(b"\xff\x00") is None


def test_what_says_nothing_of_itself_is_converted_without() -> None:
    picture = Image.new("RGBA", (8, 8))
    with Image.open(io.BytesIO(converted(picture, "jpeg", 90))) as found:
        assert (found.mode, "exif" in found.info, "xmp" in found.info) == ("RGB", False, False)
