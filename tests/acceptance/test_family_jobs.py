"""Families of pipelines as queued jobs: submitted, rendered, stored, recorded."""

import json
from collections.abc import Iterator

import pytest

from storage.spec.profiles import profile_of
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.pipelines import architectures

pytestmark = pytest.mark.filterwarnings("ignore")  # of Diffusers, about its own parts

FAMILIES = (
    *("sd21", "sd3", "flux-dev", "flux-schnell", "flux2-klein", "qwen-image", "z-image", "chroma", "sana"),
    *("pixart-sigma", "lumina2", "kandinsky3", "sdxl-pag", "lcm", "sdxl-turbo", "ernie-image"),
)
ENTRY = """
[models.{alias}]
kind = "diffusers"
source = "{folder}"
width = 64
height = 64
num_inference_steps = 4
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Home]:
    """A home with a small model of every family."""
    folder = tmp_path_factory.mktemp("families")
    home = Home(folder, starter, FARM_DEVICES="cpu:0", FARM_LOADED_MODELS="2", HF_HUB_OFFLINE="1")
    entries = [
        ENTRY.format(alias=name, folder=architectures.build(name, folder / name))
        + ('distilled = "turbo"\n' if name == "sdxl-turbo" else "")
        for name in FAMILIES
    ]
    home.path.mkdir()
    (home.path / "models.toml").write_text("".join(entries))
    yield home
    home.is_left_in_peace()


def test_pictures_of_every_family_are_jobs_with_recipes_and_what_would_be_rounded_is_refused(home: Home) -> None:
    rows = [{"prompt": f"a red star {turn}", "model": name, "seed": turn} for name in FAMILIES for turn in range(2)]
    home.file("rows.jsonl", "\n".join(map(json.dumps, rows)))

    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        result = home.farm("render", "--prompts", "rows.jsonl", "--json", "--out", "pictures").json
        assert [(job["state"], job["error"]) for job in result["jobs"]] == [("done", None)] * len(rows)
        assert len(list((home.folder / "pictures").glob("*.png"))) == len(rows)

        for name, job in zip(FAMILIES, result["jobs"][::2], strict=True):
            recipe = home.farm("recipe", job["id"], "--json").json["made_with"]
            profile = profile_of(recipe["pipeline"])
            assert profile is not None, name
            assert set(profile.pinned) <= set(recipe.get("call", {})), name

        for name in ("sd3", "flux-dev", "qwen-image", "z-image", "chroma", "sana", "lumina2", "ernie-image"):
            said = home.farm("render", "a", "--model", name, "--size", "72x64", "--no-wait", code=2).complaint
            assert "width: must be a multiple of" in said, name
        up.interrupted()
