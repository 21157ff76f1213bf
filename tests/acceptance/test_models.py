"""A farm of many models on one device: every model and control of the guide as a queued job."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.command import Home
from tests.forks import Starter
from tests.pipelines import random_weights

#: Alias → pipeline, its folder and its ControlNets.
ALIASES: dict[str, tuple[str, list[str]]] = {
    "sd": ("sd", []),
    "sdxl": ("sdxl", []),
    "kandinsky": ("kandinsky", []),
    "sd-control": ("sd", ["sd-net1"]),
    "sd-two": ("sd", ["sd-net1", "sd-net2"]),
    "sdxl-two": ("sdxl", ["sdxl-net1", "sdxl-net2"]),
}
ENTRY = """
[models.{alias}]
kind = "diffusers"
source = "{folder}"
controlnets = {nets}
width = 64
height = 64
num_inference_steps = 3
batch_limit = 4
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Home]:
    """A home with room for two models, and silhouettes to bring."""
    folder = tmp_path_factory.mktemp("models")
    random_weights.stable_diffusion(folder / "sd")
    random_weights.sdxl(folder / "sdxl")
    random_weights.kandinsky22(folder / "kandinsky")
    for base in ("sd", "sdxl"):
        for seed in (1, 2):
            random_weights.controlnet(folder / f"{base}-net{seed}", folder / base, seed=seed)
    random_weights.lora(folder / "ink", folder / "sd")
    home = Home(folder, starter, FARM_DEVICES="cpu:0", FARM_LOADED_MODELS="2", HF_HUB_OFFLINE="1")
    entries = [
        ENTRY.format(alias=alias, folder=folder / base, nets=[str(folder / net) for net in nets])
        for alias, (base, nets) in ALIASES.items()
    ]
    home.path.mkdir()
    (home.path / "models.toml").write_text("".join(entries) + f'[loras.ink]\nsource = "{folder / "ink"}"\n')
    for number, colour in enumerate(("white", "grey")):
        random_weights.picture(folder / f"{colour}.png", seed=number)
    yield home
    home.is_left_in_peace()


def rows() -> list[dict[str, object]]:
    """Three rounds through all models, with every control of each somewhere."""
    images = ["white.png", "grey.png"]
    controls: dict[str, list[dict[str, object]]] = {
        "sd": [
            {"eta": 0.5, "sampler": "ddim"},
            {"clip_skip": 1},
            {"loras": {"ink": 0.8}, "prompt_weighting": "compel"},
        ],
        "sdxl": [{"original_size": [1024, 1024]}, {"prompt_weighting": "compel"}, {"negative_prompt": "blue"}],
        "kandinsky": [{"prior_num_inference_steps": 4}, {"negative_prompt": "blue"}, {"prior_guidance_scale": 2.0}],
        "sd-control": [{"guess_mode": True}, {"control_guidance_end": 0.7}, {"controlnet_conditioning_scale": 0.5}],
        "sd-two": [{"controlnet_conditioning_scale": [1.0, 0.5]}, {}, {"sampler": "unipc"}],
        "sdxl-two": [{}, {"control_guidance_start": [0.0, 0.3]}, {"crops_coords_top_left": [0, 8]}],
    }
    return [
        {"prompt": f"a (red)1.2 star {turn}", "model": alias, "seed": turn}
        | controls[alias][turn]
        | ({"control_images": images[: len(nets)]} if nets else {})
        for turn in range(3)
        for alias, (_, nets) in ALIASES.items()
    ]


def test_every_model_and_control_is_a_job_and_few_models_are_loaded_twice(home: Home) -> None:
    home.file("rows.jsonl", "\n".join(json.dumps(row) for row in rows()))

    result = home.farm("render", "--prompts", "rows.jsonl", "--json", "--out", "pictures").json

    assert [(job["state"], job["error"]) for job in result["jobs"]] == [("done", None)] * len(rows())
    assert len(list((home.folder / "pictures").glob("*.png"))) == len(rows())
    log = (home.path / "logs" / "farm.log").read_text()
    # The rounds alternate between six models, but a worker stays with one while it has work: each is loaded once.
    assert Counter(re.findall(r" loaded model=(\S+)", log)) == Counter(list(ALIASES))
    assert len(re.findall(r" unloaded model=", log)) == len(ALIASES) - 2


def test_a_picture_of_every_model_is_made_again_identically(home: Home) -> None:
    home.file("again.jsonl", "\n".join(json.dumps(row) for row in rows()[: len(ALIASES)]))
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        result = home.farm("render", "--prompts", "again.jsonl", "--json").json
        for job in result["jobs"]:
            again = home.farm("rerender", job["id"], "--json").json
            assert (again["identical"], again["changed"]) == (True, []), job
        up.interrupted()


#: What is wrong with a model's folder, and what is said of it.
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda unet: (unet / "config.json").unlink(), "cannot be loaded: .*config.json"),
    "damaged": (
        lambda unet: (unet / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights"),
        "cannot be loaded",
    ),
}


@pytest.fixture(scope="module")
def spoilt(home: Home) -> Iterator[Home]:
    """A farm that runs, with more models in its registry, of which none can be loaded."""
    entries = ENTRY.format(alias="far", folder="nobody/nothing", nets=[])
    for alias, (spoil, _) in SPOILT.items():
        folder = random_weights.stable_diffusion(home.folder / alias)
        spoil(folder / "unet")
        entries += ENTRY.format(alias=alias, folder=folder, nets=[])
    registry = home.path / "models.toml"
    before = registry.read_text()
    registry.write_text(before + entries)
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        yield home
        up.interrupted()
    registry.write_text(before)


def test_a_folder_of_pickled_weights_is_refused_before_anything_is_accepted(spoilt: Home) -> None:
    weights = next((spoilt.folder / "missing" / "unet").glob("*.safetensors"))
    pickled = weights.rename(weights.with_suffix(".bin"))
    try:
        refused = spoilt.farm("render", "a", "--model", "missing", "--json", code=2)
    finally:
        pickled.rename(weights)
    assert "missing cannot be loaded: its weights are pickled" in refused.err
    assert "to_safetensors" in refused.err
    assert spoilt.rows("SELECT count(*) FROM jobs WHERE model = 'missing'") == [(0,)]


def test_a_hub_that_cannot_be_reached_is_named_and_not_asked_again(spoilt: Home) -> None:
    result = spoilt.farm("render", "a", "--model", "far", "--json", code=1).json
    listed = {model["alias"]: model["missing"] for model in spoilt.farm("models", "--json").json}
    [job] = result["jobs"]
    assert job["state"] == "failed"
    assert re.search("model far .nobody/nothing. cannot be loaded", job["error"]), job["error"]
    assert spoilt.rows("SELECT attempt FROM jobs WHERE model = 'far'") == [(1,)]
    assert (listed["far"], listed["sd"]) == (["nobody/nothing"], [])


@pytest.mark.parametrize("alias", SPOILT)
def test_a_model_that_cannot_be_loaded_fails_its_jobs_with_the_reason_and_no_others(spoilt: Home, alias: str) -> None:
    spoilt.file("mixed.jsonl", f'{{"prompt": "a", "model": "{alias}"}}\n{{"prompt": "b", "model": "sd"}}')
    result = spoilt.farm("render", "--prompts", "mixed.jsonl", "--json", code=1).json
    bad, good = result["jobs"]
    assert (bad["state"], good["state"]) == ("failed", "done")
    assert spoilt.rows(f"SELECT attempt FROM jobs WHERE model = '{alias}'") == [(1,)]
    assert re.search(SPOILT[alias][1], bad["error"]), bad["error"]
