"""Metadata in which anything may stand anywhere: it is read, or refused with a word, and never anything else."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from scheduler.intake.picture_files import read_picture
from storage.errors import InvalidInput
from tests.unit.test_json_of_other_tools import METADATA, graph
from tests.unit.test_picture_files import INFOTEXT, RECIPE, SPEC, png
from tests.unit.test_pictures_of_others import FLUX, FOOOCUS, NOVELAI, OLD_INVOKEAI, SWARM

#: What may stand in the place of any value.
_ANYTHING: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "x", "a" * 5000, "(a:b)", "<lora:x:y>"),
    *([], [[]], [None], ["3", 0], ["99", 0], {}, {"a": 1}),
)
WHOLE: dict[str, tuple[str, Any]] = {
    "ComfyUI": ("prompt", graph()),
    "ComfyUI in parts": ("prompt", graph(**FLUX)),
    "InvokeAI": ("invokeai_metadata", METADATA),
    "old InvokeAI": ("sd-metadata", OLD_INVOKEAI),
    "SwarmUI": ("parameters", SWARM),
    "Fooocus": ("parameters", FOOOCUS),
    "NovelAI": ("Comment", NOVELAI),
    "ours": ("diffusion-farm", {"spec": SPEC.fields(), "made_with": RECIPE}),
}


def damaged(value: Any, chance: random.Random) -> Any:
    """Return a value of JSON with some of its parts replaced or missing."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if chance.random() > 0.03}
        return {key: damaged(one, chance) if chance.random() < 0.3 else one for key, one in kept.items()}
    if isinstance(value, list) and chance.random() < 0.5:
        return [damaged(one, chance) for one in value]
    return chance.choice(_ANYTHING)


def answers(path: Path) -> int:
    """Return 1 if a picture is read, 0 if it is refused with its name."""
    try:
        made = read_picture(path)
    except InvalidInput as refusal:
        return 0 if str(refusal).startswith(f"{path}: ") else -1000
    json.dumps(made.fields)
    return 1


@pytest.mark.parametrize("program", WHOLE)
def test_whatever_stands_in_anothers_json_is_read_or_refused(tmp_path: Path, program: str) -> None:
    key, whole = WHOLE[program]
    chance = random.Random(program)
    read = sum(answers(png(tmp_path / "a.png", **{key: json.dumps(damaged(whole, chance))})) for _ in range(60))
    assert read > 0


def test_so_is_whatever_stands_in_a_text(tmp_path: Path) -> None:
    chance = random.Random(7)
    read = 0
    for _ in range(120):
        letters = list(INFOTEXT)
        for _ in range(chance.randrange(8)):
            letters[chance.randrange(len(letters))] = chance.choice(':,"\n\\<>()[]{} x9')
        read += answers(png(tmp_path / "a.png", parameters="".join(letters)))
    assert read > 60
