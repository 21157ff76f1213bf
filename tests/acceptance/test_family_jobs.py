"""Families of pipelines as queued jobs: submitted, rendered, stored, recorded."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.spec.profiles import Profile, profile_of
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.pipelines import example_entries
from tests.pipelines.test_families import NEGATIVE, Family
from tests.tools.family_table import HEAD, Row

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
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """A small model of every family, which Diffusers opens, too."""
    return {name: Family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, starter: Starter, families: dict[str, Family]) -> Iterator[Home]:
    """A home with these models, as examples/models.toml has them."""
    home = Home(
        tmp_path_factory.mktemp("farm"), starter, FARM_DEVICES="cpu:0", FARM_LOADED_MODELS="2", HF_HUB_OFFLINE="1"
    )
    entries = [
        ENTRY.format(alias=name, folder=family.folder)
        + "".join(f'{key} = "{value}"\n' for key, value in example_entries.options(name).items())
        for name, family in families.items()
    ]
    home.path.mkdir()
    (home.path / "models.toml").write_text("".join(entries))
    yield home
    home.is_left_in_peace()


def rows_of(name: str, profile: Profile) -> dict[str, dict[str, Any]]:
    """The pictures that are asked for of a family, by what they show."""
    rows: dict[str, dict[str, Any]] = {
        "equal to Diffusers": {"seed": 1},
        "batch": {"seed": 2, "prompt": "dot " * 30},
        "off": {"seed": 1, "guidance_scale": profile.off},
        "size": {"seed": 1, "width": 64 + profile.multiple},
    }
    if profile.negative == "text":
        rows["negative"] = {"seed": 1, "negative_prompt": NEGATIVE}
    return {
        column: {"prompt": "a red star", "model": name, "guidance_scale": 5.0} | row for column, row in rows.items()
    }


def test_pictures_of_every_family_are_jobs_with_recipes_and_what_would_be_rounded_is_refused(
    home: Home, families: dict[str, Family], capsys: pytest.CaptureFixture[str]
) -> None:
    """Writes a table of families and jobs, as tests/tools/family_table.py, which also cancels and checks, prints."""
    asked = [
        (family, column, row)
        for family in families.values()
        for column, row in rows_of(family.name, family.profile).items()
    ]
    home.file("rows.jsonl", "\n".join(json.dumps(row) for _, _, row in asked))
    table = {name: Row(name) for name in families}

    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        result = home.farm("render", "--prompts", "rows.jsonl", "--json", "--out", "pictures").json
        assert [(job["state"], job["error"]) for job in result["jobs"]] == [("done", None)] * len(asked)
        files = sorted((home.folder / "pictures").glob("*.png"))
        for (family, column, row), job, file in zip(asked, result["jobs"], files, strict=True):
            spec = family.spec(**{key: value for key, value in row.items() if key != "model"})
            picture = np.asarray(Image.open(file)).astype(np.int16)
            table[family.name].compare(column, job["id"], picture, family.own_call(spec))

        for job in result["jobs"][:: len(asked) // len(families)]:
            made = home.farm("recipe", job["id"], "--json").json
            profile = profile_of(made["made_with"]["pipeline"])
            assert profile is not None, made
            assert set(profile.pinned) <= set(made["made_with"].get("call", {})), made

        for name in ("sd3", "flux-dev", "qwen-image", "z-image", "chroma", "sana", "lumina2", "ernie-image"):
            said = home.farm("render", "a", "--model", name, "--size", "72x64", "--no-wait", code=2).complaint
            assert "width: must be a multiple of" in said, name
            good, words = table[name].cells["size"]
            table[name].cells["size"] = good, f"{words}; odd sides refused"
        up.interrupted()
    written = home.folder / "families.md"
    written.write_text("\n".join([*HEAD, *(row.written() for row in table.values())]) + "\n", encoding="utf-8")
    with capsys.disabled():
        sys.stdout.write(f" [families and jobs: {written}]")
    assert [row.name for row in table.values() if not row.holds] == [], written.read_text(encoding="utf-8")
