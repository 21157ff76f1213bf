"""Each entry of examples/models.toml is one that a farm takes as it stands.

Their options are tried with small weights of their families (test_families.py).
"""

import re
from pathlib import Path

import pytest

from storage.spec.capabilities import remarks
from storage.spec.picture import Request
from storage.spec.profiles import profile_of
from storage.spec.registry import Registry, parse_registry
from tests.pipelines.example_entries import OF_ARCHITECTURES, entries
from tests.pipelines.test_families import FAMILIES
from tests.pipelines.tried import Tried

TEXT = (Path(__file__).parents[2] / "examples/models.toml").read_text(encoding="utf-8")
NAMED = [alias for alias, entry in entries().items() if entry["kind"] == "diffusers" and "/" in entry["source"]]
#: Of the same weights as the entry before, with ControlNets.
WITH_CONTROLNETS = {"sd15-openpose", "sd15-openpose-canny", "sdxl-canny"}
#: Of the same class as another entry's: tried here, or with that one's options.
OF_ANOTHERS_CLASS = {"sdxl-lightning", "z-image"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return parse_registry(TEXT, where="examples/models.toml")


@pytest.mark.parametrize("alias", NAMED)
def test_pictures_with_an_entrys_own_defaults_are_accepted_without_a_remark(registry: Registry, alias: str) -> None:
    images = [f"sha256:{'0' * 64}"] * len(entries()[alias].get("controlnets", ()))
    asked = {"prompt": "a red star", "model": alias, **({"control_images": images} if images else {})}
    assert list(remarks(registry.resolve(Request.parse(asked), seed=1), registry[alias])) == []
    assert profile_of(entries()[alias]["pipeline"]) is not None


def test_each_family_is_there_with_its_licence_and_tried() -> None:
    assert {*OF_ARCHITECTURES.values()} | WITH_CONTROLNETS | OF_ANOTHERS_CLASS == {*NAMED}
    assert OF_ARCHITECTURES.keys() <= {*FAMILIES}
    for alias in set(NAMED) - WITH_CONTROLNETS:
        [comment] = re.findall(rf"((?:^#[^\n]*\n)+)\[models\.{re.escape(alias)}\]", TEXT, re.MULTILINE)
        assert "Licence: " in comment, alias


def test_a_model_of_lightning_is_drawn_as_its_entry_says(tmp_path: Path) -> None:
    tried = Tried("sdxl", tmp_path / "sdxl", 'pipeline = "StableDiffusionXLPipeline"\ndistilled = "lightning"')
    spec = tried.spec(num_inference_steps=4, guidance_scale=0)
    assert spec.sampler == "euler"
    assert tried.drawn(spec).shape == (64, 64, 3)
