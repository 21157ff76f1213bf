"""Conditioning images, embeddings and weighted prompts from the command line; and what is wrong with them."""

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image, ImageChops, ImageDraw, ImageStat

from tests.acceptance.command import Home

RED_AND_BLUE = ["a large (red)1.5 and (blue)0.5 square on a white background", "a large red and blue square"]


def silhouette(**save: Any) -> bytes:
    image = Image.new("RGB", (64, 64))
    ImageDraw.Draw(image).ellipse((20, 20, 52, 52), fill="white")
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | save))
    return file.getvalue()


@pytest.fixture(autouse=True)
def inputs(served: Home) -> Path:
    """A folder with one good image, seen from where commands run."""
    folder = served.folder / "inputs"
    folder.mkdir(exist_ok=True)
    (folder / "disc.png").write_bytes(silhouette())
    return folder


# -- what works ------------------------------------------------------------------------------------------------


def test_an_upload_is_named_by_its_bytes_and_may_be_repeated(served: Home) -> None:
    first = served.farm("upload", "inputs/disc.png", "--json").json
    again = served.farm("upload", "inputs/disc.png", "--json").json
    assert first == again
    [reference] = first.values()
    result = served.farm(
        "render", "a red shape on a blue background", "--model", "shapes-silhouette", "--control", reference, "--json"
    ).json
    assert result["state"] == "done"


def test_an_upload_that_nothing_names_is_purged_and_others_are_not(served: Home, inputs: Path) -> None:
    (inputs / "named.png").write_bytes(silhouette(compress_level=1))
    (inputs / "unneeded.png").write_bytes(silhouette(compress_level=2))
    named, unneeded = served.farm("upload", "inputs/named.png", "inputs/unneeded.png", "--json").json.values()
    command = ("render", "a red shape", "--model", "shapes-silhouette", "--control", named, "--no-wait")
    # Cancelled, it can still be looked up and made again.
    served.farm("cancel", served.farm(*command).out.strip())
    assert unneeded not in str(served.farm("purge", "--older-than", "0d", "--yes", "--json").json["uploads"])
    with closing(sqlite3.connect(served.path / "farm.db", timeout=60)) as connection, connection:
        connection.execute("UPDATE uploads SET used_at = used_at - 90000")
    kept = served.farm("purge", "--older-than", "1d", "--state", "done", "--dry-run", "--json").json
    assert kept["uploads"] == []
    shown = served.farm("purge", "--older-than", "1d", "--dry-run").out
    assert "that nothing needs any more" in shown
    told = served.farm("purge", "--older-than", "1d", "--yes", "--json").json
    references = [one["reference"] for one in told["uploads"]]
    assert (unneeded in references, named in references) == (True, False)
    stored = {f"sha256:{file.name}" for file in (served.path / "objects" / "inputs").iterdir()}
    assert (unneeded in stored, named in stored) == (False, True)


def test_the_photo_of_a_phone_conditions_as_its_first_picture(served: Home, inputs: Path) -> None:
    preview = Image.new("RGB", (64, 64), "white")
    (inputs / "photo.jpg").write_bytes(silhouette(format="MPO", save_all=True, append_images=[preview], quality=100))
    command = ("render", "a red shape on a blue background", "--model", "shapes-silhouette", "--seed", "1")
    for name in ("photo.jpg", "disc.png"):
        served.farm(*command, "--control", f"inputs/{name}", "--out", f"of-{name}")
    photo, drawing = (Image.open(served.folder / f"of-{name}/000000-1.png") for name in ("photo.jpg", "disc.png"))
    assert max(ImageStat.Stat(ImageChops.difference(photo, drawing)).mean) < 10


def test_a_prompt_file_names_images_as_seen_from_its_folder(served: Home, inputs: Path) -> None:
    rows = [
        {"prompt": f"a {colour} shape", "model": "shapes-silhouette", "control_images": ["disc.png"], "seed": seed}
        for seed, colour in enumerate(("red", "blue", "green"))
    ]
    (inputs / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    result = served.farm("render", "--prompts", "inputs/rows.jsonl", "--json").json
    assert (result["state"], result["done"]) == ("done", 3)
    recipes = [served.farm("recipe", job["id"], "--json").json for job in result["jobs"]]
    references = {image for recipe in recipes for image in recipe["spec"]["control_images"]}
    assert [reference.startswith("sha256:") for reference in references] == [True]
    again = served.farm("rerender", result["jobs"][1]["id"], "--json").json
    assert again["identical"] is True


def test_a_weighted_prompt_is_rendered_and_recorded(served: Home) -> None:
    result = served.farm("render", *RED_AND_BLUE, "--weighting", "compel", "--json").json
    assert result["state"] == "done"
    recipe = served.farm("recipe", result["jobs"][0]["id"], "--json").json
    assert recipe["spec"]["prompt_weighting"] == "compel"
    assert len(recipe["made_with"]["weights"]) == 64


# -- what is refused -------------------------------------------------------------------------------------------


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name → content and what is said of it."""
    deep = io.BytesIO()
    Image.new("I;16", (8, 8)).save(deep, "PNG")
    moving = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    return {
        "text.png": (b"this is no picture", "not a complete PNG, JPEG or WEBP image"),
        "cut.png": (silhouette()[:120], "not a complete PNG, JPEG or WEBP image"),
        "old.gif": (silhouette(format="GIF"), "not a complete PNG, JPEG or WEBP image"),
        "deep.png": (deep.getvalue(), "8 bits per channel"),
        "moving.webp": (moving.getvalue(), "animation of 2"),
        "bomb.png": (bomb.getvalue(), "megapixels|decompression bomb"),
        "text.safetensors": (b"this is no tensor", "not a safetensors file"),
        "other.safetensors": (safetensors.torch.save({"a": torch.zeros(1)}), "no tensor named prompt_embeds; found a"),
        "flat.safetensors": (safetensors.torch.save({"prompt_embeds": torch.zeros(7)}), r"shape \(7,\)"),
        "whole.safetensors": (
            safetensors.torch.save({"prompt_embeds": torch.zeros(77, 96, dtype=torch.int32)}),
            "type I32",
        ),
    }


@pytest.mark.parametrize("name", sorted(bad_files()))
def test_a_file_that_no_pipeline_could_use_is_refused(served: Home, inputs: Path, name: str) -> None:
    content, says = bad_files()[name]
    (inputs / name).write_bytes(content)
    before = served.rows("SELECT count(*) FROM jobs")
    option = "--embeds" if name.endswith(".safetensors") else "--control"
    for arguments in (
        ["upload", f"inputs/{name}"],
        ["render", "--model", "shapes", option, f"inputs/{name}", "a star"],
    ):
        served.farm(*arguments, code=2).complains(says)
    assert served.rows("SELECT count(*) FROM jobs") == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "shapes-silhouette"], "control_images: .*shapes-silhouette has 1 ControlNet.*none given"),
        (["--control", "inputs/disc.png"], "control_images: .*shapes has 0 ControlNets.*1 given"),
        (["--control", "inputs/gone.png"], "inputs/gone.png: No such file"),
        (["--control", f"sha256:{'0' * 64}"], "0000 is not in the store.*farm upload"),
        (["--control-scale", "0.5"], "controlnet_conditioning_scale: .*shapes has no ControlNet"),
        (["--control-scale", "nan"], "controlnet_conditioning_scale: must be from 0 to 10"),
        (["--weighting", "compel", "--clip-skip", "1"], "clip_skip: cannot be combined with prompt_weighting"),
        (["--weighting", "compel", "--negative", "a (red"], r"negative_prompt: '\(' at character 3 is never closed"),
        (["--eta", "2"], "eta: .*less than or equal to 1"),
        (["--eta", "0.5", "--sampler", "euler"], "eta: .*Euler.*only DDIM"),
        (["--prior-steps", "5"], "prior_num_inference_steps: .*StableDiffusionPipeline.*does not support it"),
        (["--original-size", "64", "64"], "original_size: .*StableDiffusionPipeline.*does not support it"),
        (["--lora", "ink=1"], "loras: no LoRA named 'ink'"),
        (["--lora", "ink=much"], "loras: must be numbers"),
        (["--model", "simulated", "--clip-skip", "1"], "clip_skip: .*simulated"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_control_that_the_model_cannot_follow_is_refused(served: Home, arguments: list[str], says: str) -> None:
    before = served.rows("SELECT count(*) FROM jobs")
    served.farm("render", "a red star", *arguments, code=2).complains(says)
    assert served.rows("SELECT count(*) FROM jobs") == before
