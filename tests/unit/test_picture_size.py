"""Sizes as people give them: 768x512, 16:9; what contradicts them, and what a model makes of them."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.intake import grid
from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.requests import numbered, with_defaults
from storage.errors import BadSpecification
from storage.spec.picture import Request
from storage.spec.registry import parse_registry

REGISTRY = parse_registry(
    """
default = "sd"
[models.sd]
kind = "diffusers"
source = "some/sd"
pipeline = "StableDiffusionPipeline"
[models.xl]
kind = "diffusers"
source = "some/xl"
pipeline = "StableDiffusionXLPipeline"
width = 1024
height = 1024
[models.kandinsky]
kind = "diffusers"
source = "some/kandinsky"
pipeline = "KandinskyV22CombinedPipeline"
[models.toy]
kind = "simulated"
width = 64
height = 64
""",
    where="here",
)


def resolved(**fields: Any) -> tuple[int, int]:
    spec = REGISTRY.resolve(Request.parse({"prompt": "a cat", **fields}), seed=1)
    return spec.width, spec.height


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"size": "768x512"}, (768, 512)),
        ({"size": " 768 × 512 "}, (768, 512)),
        ({"size": "768X512", "model": "xl"}, (768, 512)),
        ({"aspect": "1:1"}, (512, 512)),
        ({"aspect": "16:9"}, (680, 384)),
        ({"aspect": "16:9", "model": "xl"}, (1368, 768)),
        ({"aspect": "9:16", "model": "xl"}, (768, 1368)),
        ({"aspect": "3/2", "model": "toy"}, (80, 56)),
        # As a spreadsheet turns 16:9 into a time.
        ({"aspect": "16:09"}, (680, 384)),
        ({"aspect": "2.35:1"}, (784, 336)),
        ({"aspect": "16:9", "width": 768}, (768, 432)),
        ({"aspect": "16:9", "height": 432}, (768, 432)),
        ({"aspect": "16:9", "model": "kandinsky"}, (704, 384)),
    ],
)
def test_a_size_is_completed_by_its_model(fields: dict[str, Any], size: tuple[int, int]) -> None:
    assert resolved(**fields) == size


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": "768"}, "size: must be width and height in pixels, such as 768x512"),
        ({"size": "768x513"}, "size: must be of multiples of 8 from 8 to 8192, and 513 is none"),
        ({"size": "0x8"}, "and 0 is none"),
        ({"size": "99999x8"}, "and 99999 is none"),
        ({"size": 768}, "size: must be a valid string"),
        ({"aspect": "wide"}, "aspect: must be how wide to how high, such as 16:9"),
        ({"aspect": "0:9"}, "aspect: must be how wide"),
        ({"aspect": "100:1"}, "aspect: must be between 1:16 and 16:1"),
        ({"size": "768x512", "width": 768}, "size: given beside width"),
        ({"size": "768x512", "aspect": "3:2"}, "size: given beside aspect"),
        ({"aspect": "3:2", "width": 768, "height": 512}, "aspect: given beside width and height"),
    ],
)
def test_a_wrong_or_contradictory_size_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSpecification, match=says):
        resolved(**fields)


@pytest.mark.parametrize(
    ("row", "defaults", "size"),
    [
        ({"size": "768x512"}, {"width": 64, "height": 64}, (768, 512)),
        ({"size": "768x512"}, {"aspect": "1:1"}, (768, 512)),
        ({"aspect": "2:1"}, {"width": 256, "height": 256}, (728, 360)),
        ({"aspect": "2:1"}, {"width": 256}, (256, 128)),
        ({"aspect": "2:1"}, {"aspect": "1:1"}, (728, 360)),
        ({"width": 256}, {"aspect": "2:1"}, (256, 128)),
        ({"width": 256}, {"height": 64}, (256, 64)),
        ({"width": 256}, {"height": 64, "aspect": "1:1"}, (256, 64)),
        ({"width": 256, "height": 64}, {"aspect": "1:1"}, (256, 64)),
        ({}, {"aspect": "2:1", "width": 256}, (256, 128)),
    ],
)
def test_a_rows_own_size_overrules_what_is_given_for_all(
    row: dict[str, Any], defaults: dict[str, Any], size: tuple[int, int]
) -> None:
    shared = Request.parse({"prompt": "-", **defaults}).model_dump(exclude_none=True, exclude={"prompt"})
    [one] = with_defaults(numbered([Request.parse({"prompt": "a cat", **row})]), shared)
    spec = REGISTRY.resolve(one.request, seed=1)
    assert (spec.width, spec.height) == size


@pytest.mark.parametrize(
    ("row", "values", "size"),
    [
        ({"width": 64, "height": 64}, {"size": ["768x512"]}, (768, 512)),
        ({"width": 64, "height": 64}, {"aspect": ["2:1"]}, (728, 360)),
        ({"aspect": "2:1"}, {"size": ["64x64"]}, (64, 64)),
        ({"aspect": "2:1", "height": 64}, {"width": [256]}, (256, 128)),
        ({"size": "768x512"}, {"width": [256]}, (256, 512)),
    ],
)
def test_values_of_a_list_replace_a_rows_own(
    row: dict[str, Any], values: dict[str, list[Any]], size: tuple[int, int]
) -> None:
    grid.check({}, values)
    [one] = grid.multiplied(numbered([Request.parse({"prompt": "a cat", **row})]), {}, values)
    spec = REGISTRY.resolve(one.request, seed=1)
    assert (spec.width, spec.height) == size


def test_lists_and_fields_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="size: given beside width"):
        grid.check({}, {"size": ["64x64"]}, {"width"})
    with pytest.raises(ValueError, match="aspect: given beside width and height"):
        grid.check({"width": [8], "height": [8]}, {"aspect": ["1:1"]})
    with pytest.raises(ValueError, match="steps_: not a field.*did you mean steps"):
        grid.check({}, {"steps_": [1]})


def test_sizes_are_columns_of_every_table(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "prompt,size,aspect\na,768x512,\nb,,16:9\n"),
        ("b.jsonl", '{"prompt": "a", "Size": "768x512"}\n{"prompt": "b", "aspect": "16:9"}\n'),
        ("c.txt", "a --size 768x512\nb --aspect 16:9\n"),
    ):
        (tmp_path / name).write_text(text)
        specs = [REGISTRY.resolve(one.request, seed=1) for one in read_manifest(manifest(tmp_path / name))]
        assert [(spec.width, spec.height) for spec in specs] == [(768, 512), (680, 384)], name
