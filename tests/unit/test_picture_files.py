"""Settings read out of pictures' files: the farm's own, the web UI's, ComfyUI's, InvokeAI's."""

import io
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from scheduler.cli.main import cli
from scheduler.cli.order_options import OrderOptions
from scheduler.intake.picture_files import MadeBy, read_picture
from scheduler.results.conversion import converted
from storage.errors import BadSpecification, InvalidInput
from storage.objects.pixels import pixels_sha256
from storage.settings import read_settings
from storage.spec.carried_recipe import NAMESPACE
from storage.spec.picture import Spec
from storage.spec.sampler_names import SAMPLERS
from tests.unit.test_json_of_other_tools import METADATA, OF_THE_GRAPH, graph
from worker.rendering.simulated import draw
from worker.serving.encode import to_png

SPEC = Spec(
    model="tiny",
    prompt="a red ☆ star,\n\nat night: 星",
    negative_prompt="blurry",
    width=64,
    height=48,
    num_inference_steps=20,
    guidance_scale=7.5,
    sampler="dpm++ 2m sde karras",
    seed=7,
    loras={"ink": 0.8},
    clip_skip=1,
)
RECIPE = {"farm": "0.1.0", "threads": 1, "calls": [[2, 1, 0, 20]], "decoded": [1, 0]}
INFOTEXT = (
    "a (red:1.2) cat <lora:Ink:0.5>\nNegative prompt: dog\n"
    "Steps: 20, Sampler: DPM++ 2M SDE, Schedule type: Exponential, CFG scale: 6, Seed: 5, "
    "Size: 64x96, Model hash: 0a1b2c, Model: dreamshaper_8, Clip skip: 2, Version: v1.10.1"
)


def png(path: Path, **texts: str) -> Path:
    found = PngInfo()
    for key, text in texts.items():
        found.add_itxt(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=found)
    return path


def with_exif(path: Path, **tags: Any) -> Path:
    exif = Image.Exif()
    for name, value in tags.items():
        tag = getattr(ExifTags.Base, name)
        (exif.get_ifd(ExifTags.IFD.Exif) if name == "UserComment" else exif)[tag] = value
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return path


def fields(made: MadeBy) -> dict[str, Any]:
    return made.fields


def test_a_picture_of_the_farm_says_all_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(to_png(draw(SPEC), SPEC, RECIPE))
    made = read_picture(path)
    assert (made.program, made.spec, made.made_with) == ("the farm", SPEC, RECIPE)
    assert fields(made) == {name: value for name, value in SPEC.fields().items() if name != "version"}


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_so_does_its_jpeg_and_webp(tmp_path: Path, form: Literal["jpeg", "webp"]) -> None:
    path = tmp_path / f"a.{form}"
    with Image.open(io.BytesIO(to_png(draw(SPEC), SPEC, RECIPE))) as picture:
        path.write_bytes(converted(picture, form, 90))
        pixels = pixels_sha256(picture)
    made = read_picture(path)
    assert (made.program, made.spec, made.made_with, made.pixels) == ("the farm", SPEC, RECIPE, pixels)
    # Where only what galleries read is left of it, that says all the same.
    path.write_bytes(path.read_bytes().replace(NAMESPACE.encode(), b"x" * len(NAMESPACE)))
    made = read_picture(path)
    assert (made.program, made.spec) == ("the farm", None)
    assert fields(made) == {name: value for name, value in SPEC.fields().items() if name != "version"}


@pytest.mark.parametrize("sampler", sorted(SAMPLERS)[::7])
def test_every_sampler_comes_back_through_what_galleries_read(tmp_path: Path, sampler: str) -> None:
    spec = SPEC.model_copy(update={"prompt": "a", "sampler": sampler})
    with Image.open(io.BytesIO(to_png(draw(spec), spec, RECIPE))) as picture:
        path = png(tmp_path / "a.png", parameters=str(picture.info["parameters"]))
    assert read_picture(path).request.sampler == sampler


def test_a_picture_of_the_web_ui_is_read_whatever_its_format(tmp_path: Path) -> None:
    expected = {
        "prompt": "a (red:1.2) cat",
        "negative_prompt": "dog",
        "prompt_weighting": "webui",
        "loras": {"ink": 0.5},
        "num_inference_steps": 20,
        "sampler": "dpm++ 2m sde exponential",
        "guidance_scale": 6.0,
        "seed": 5,
        "width": 64,
        "height": 96,
        "model": "dreamshaper_8",
        "clip_skip": 1,
    }
    comment = b"UNICODE\0" + INFOTEXT.encode("utf-16-be")
    for path in (
        png(tmp_path / "a.png", parameters=INFOTEXT),
        with_exif(tmp_path / "a.jpg", UserComment=comment),
        with_exif(tmp_path / "a.webp", UserComment=comment),
        with_exif(tmp_path / "little.jpg", UserComment=b"UNICODE\0" + INFOTEXT.encode("utf-16-le")),
        with_exif(tmp_path / "ascii.jpg", UserComment=b"ASCII\0\0\0" + INFOTEXT.encode()),
    ):
        made = read_picture(path)
        assert (made.program, fields(made)) == ("the web UI", expected), path
        assert made.left.unread == {"Model hash": "0a1b2c", "Version": "v1.10.1"}


def test_a_picture_of_comfyuis_is_read(tmp_path: Path) -> None:
    text = json.dumps(graph())
    for path in (
        png(tmp_path / "a.png", prompt=text, workflow="{}"),
        with_exif(tmp_path / "a.webp", Model=f"prompt:{text}", Make="workflow:{}"),
    ):
        made = read_picture(path)
        assert (made.program, fields(made)) == ("ComfyUI", OF_THE_GRAPH)


def test_a_picture_of_invokeais_is_read(tmp_path: Path) -> None:
    made = read_picture(png(tmp_path / "a.png", invokeai_metadata=json.dumps(METADATA), invokeai_graph="{}"))
    assert made.program == "InvokeAI"
    assert (made.request.prompt, made.request.sampler) == (METADATA["positive_prompt"], "euler a")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({}, "says nothing of how it was made"),
        ({"Software": "an editor"}, "says nothing of how it was made"),
        ({"sd-metadata": "{}"}, "its metadata of InvokeAI names no picture"),
        ({"Dream": "{}"}, "that of InvokeAI before version 2, which is not read"),
        ({"prompt": "a cat", "use_stable_diffusion_model": "x"}, "that of Easy Diffusion, which is not read"),
        ({"Comment": "{}"}, "its comment is no metadata of NovelAI"),
        ({"Comment": "Created with an editor"}, "says nothing of how it was made"),
        ({"workflow": "{}"}, "that of ComfyUI, without the graph"),
        ({"prompt": "a cat"}, "its graph of ComfyUI is not JSON"),
        ({"prompt": "{}"}, "is no graph of ComfyUI"),
        (
            {"prompt": json.dumps({"1": {"class_type": "Magic", "inputs": {}}})},
            "has none of the samplers that are read",
        ),
        ({"invokeai_metadata": "[]"}, "names no prompt"),
        ({"diffusion-farm": "{"}, "its recipe is damaged"),
        ({"diffusion-farm": json.dumps({"spec": SPEC.fields(), "made_with": 7})}, "its recipe is damaged"),
        ({"diffusion-farm": '{"spec": {"version": 99}, "made_with": {}}'}, "this farm reads version 1"),
        ({"parameters": "a cat"}, "has no line of settings"),
        ({"parameters": '{"a": 1}'}, "is JSON of a program that is not known here"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_it_is(tmp_path: Path, texts: dict[str, str], says: str) -> None:
    path = png(tmp_path / "a.png", **texts)
    with pytest.raises(InvalidInput, match=says) as refusal:
        read_picture(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("a cat")
    (tmp_path / "cut.png").write_bytes(to_png(draw(SPEC), SPEC, RECIPE)[:60])
    for name, says in (
        ("a.png", "not a PNG"),
        ("cut.png", "cannot be read|not a PNG|nothing"),
        ("none.png", "No such file"),
    ):
        with pytest.raises(InvalidInput, match=says):
            read_picture(tmp_path / name)


# -- the commands ------------------------------------------------------------------------------------------------


def farm(home: Path, *words: str) -> Any:
    return CliRunner().invoke(cli, words, env={"FARM_HOME": str(home)})


def test_farm_recipe_shows_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(to_png(draw(SPEC), SPEC, RECIPE))
    told = farm(tmp_path / "home", "recipe", str(path), "--json")
    assert json.loads(told.output) == {"program": "the farm", "spec": SPEC.fields(), "made_with": RECIPE}
    theirs = farm(tmp_path / "home", "recipe", str(png(tmp_path / "b.png", parameters=INFOTEXT)))
    assert json.loads(theirs.output)["not_read"] == {"Model hash": "0a1b2c", "Version": "v1.10.1"}


def test_a_picture_without_a_whole_recipe_cannot_be_reproduced(tmp_path: Path) -> None:
    refused = farm(tmp_path / "home", "rerender", str(png(tmp_path / "b.png", parameters=INFOTEXT)))
    assert "of the web UI, and without a whole recipe" in str(refused.exception)
    assert "farm render --from" in str(refused.exception)


def order_like(
    home: Path, picture: Path, *prompts: str, seed: int | None = None, **fields: Any
) -> list[dict[str, Any]]:
    nothing: dict[str, Any] = {
        "file": None,
        "delimiter": None,
        "kind": None,
        "templates": (),
        "wildcards": None,
        "random": None,
    }
    options = OrderOptions(
        **nothing, prompts=prompts, picture=picture, in_step=(), combined=(), pictures_each=1, seed=seed, fields=fields
    )
    with options.order(read_settings(home=str(home))) as order:
        asked = [one.request.model_dump(exclude_none=True) for one in order.asked()]
    return [{**one, "order's seed": order.seed} for one in asked]


def test_an_order_takes_the_settings_of_a_picture_but_for_those_given_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.toml").write_text('[models.tiny]\nkind = "simulated"\n[loras.ink]\nsource = "someone/ink"\n')
    path = png(tmp_path / "a.png", parameters=INFOTEXT)
    expected = {
        "prompt": "a (red:1.2) cat",
        "negative_prompt": "dog",
        "prompt_weighting": "webui",
        "loras": {"ink": 0.5},
        "guidance_scale": 6.0,
        "clip_skip": 1,
        "num_inference_steps": 20,
        "sampler": "dpm++ 2m sde exponential",
        "width": 64,
        "height": 96,
        "order's seed": 5,
    }
    assert order_like(tmp_path, path) == [expected]
    said = capsys.readouterr().err
    for words in (
        "'dreamshaper_8' of the picture is not registered here",
        "not read: Model hash, Version",
        "the web UI",
    ):
        assert words in said
    [found] = order_like(tmp_path, path, num_inference_steps=4, size="128x64", sampler="Euler")
    assert found == {**expected, "num_inference_steps": 4, "width": 128, "height": 64, "sampler": "euler"}
    [found] = order_like(tmp_path, path, "another prompt", seed=9)
    assert found == {**expected, "prompt": "another prompt", "order's seed": 9}
    [found] = order_like(tmp_path, path, aspect="16:9")
    assert found.keys() == expected.keys() - {"width", "height"} | {"aspect"}


def test_what_a_picture_has_and_the_farm_has_not_is_told_and_what_it_cannot_take_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = INFOTEXT.replace("DPM++ 2M SDE, ", "Restart, ").replace("64x96", "833x96")
    path = png(tmp_path / "a.png", parameters=text.replace("Version", "Hires upscale: 2, Version"))
    refusals: list[tuple[dict[str, Any], str]] = [
        ({}, "size|width"),
        (
            {"size": "832x96"},
            "sampler: is not a sampler of the farm; Euler a comes close.*give --sampler beside --from",
        ),
        ({"sampler": "Euler"}, "width: must be a multiple of 8, such as 832 or 840.*give --size beside --from"),
    ]
    for given, says in refusals:
        with pytest.raises(BadSpecification, match=f"{path}: {says}"):
            order_like(tmp_path, path, **given)
    [found] = order_like(tmp_path, path, size="832x96", sampler="Euler")
    assert (found["width"], found["sampler"]) == (832, "euler")
    assert f"{path}: not done here: Hires upscale: 2" in capsys.readouterr().err


def test_a_picture_without_a_prompt_asks_for_one(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", parameters="Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 64x64")
    with pytest.raises(BadSpecification, match="prompt: it was drawn without one; give a prompt beside --from"):
        order_like(tmp_path, path)
    [found] = order_like(tmp_path, path, "a star")
    assert (found["prompt"], found["sampler"]) == ("a star", "euler")


def test_farm_render_takes_a_picture(tmp_path: Path) -> None:
    text = INFOTEXT.replace(" <lora:Ink:0.5>", "").replace("(red:1.2)", "red").replace(", Clip skip: 2", "")
    path = png(tmp_path / "a.png", parameters=text)
    told = farm(tmp_path / "home", "render", "--from", str(path), "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    [shown] = json.loads(told.stdout)["examples"]
    assert (shown["prompt"], shown["width"], shown["height"]) == ("a red cat", 64, 96)
