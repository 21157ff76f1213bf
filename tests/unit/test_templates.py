from collections.abc import Sequence
from pathlib import Path

import pytest

from scheduler.intake.templates import MOST, Templates, read_wildcards
from storage.errors import BadSpecification, InvalidInput


def wildcards(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def expanded(*texts: str, folder: Path | None = None) -> list[str]:
    return list(Templates(texts=texts, wildcards=read_wildcards(folder) if folder else {}).prompts())


def test_every_combination_is_made_in_order() -> None:
    assert expanded("a {red|blue} {star|circle}") == ["a red star", "a red circle", "a blue star", "a blue circle"]


def test_templates_follow_one_another() -> None:
    assert expanded("{a|b}", "c") == ["a", "b", "c"]


def test_a_wildcard_is_a_file_of_values_which_may_be_templates(tmp_path: Path) -> None:
    folder = wildcards(tmp_path, animal="cat\n# no value\n{big|small} dog\n")
    assert expanded("a __animal__", folder=folder) == ["a cat", "a big dog", "a small dog"]


def test_random_prompts_are_the_same_for_the_same_seed() -> None:
    def drawn(seed: int) -> list[str]:
        return list(Templates(texts=("{a|b|c|d} {e|f|g|h}",), random=20, seed=seed).prompts())

    assert drawn(1) == drawn(1)
    assert len(drawn(1)) == 20
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("choice", ["{1::red|9::blue}", "__colour__"])
def test_weights_count_where_prompts_are_drawn(tmp_path: Path, choice: str) -> None:
    found = read_wildcards(wildcards(tmp_path, colour="1::red\n9::blue\n"))
    drawn = list(Templates(texts=(choice,), wildcards=found, random=500, seed=1).prompts())
    assert set(drawn) == {"red", "blue"}
    # Nine in ten, give or take five standard deviations.
    assert 416 < drawn.count("blue") < 484


@pytest.mark.parametrize(
    "text",
    [
        "a star",
        "{red|blue} {a|b|c}",
        "{2$$a|b|c}",
        "{0-2$$ and $$a|b|c}",
        "{5$$a|b}",
        "{{a|b}|c}",
        "{a|{b|{c|d}}} x {e|f}",
        "${c={red|blue}}${c} star, ${c} circle",
        "__animal__ {x|y}",
        "{1-2$$__animal__}",
    ],
)
def test_the_count_is_that_of_the_prompts(tmp_path: Path, text: str) -> None:
    found = read_wildcards(wildcards(tmp_path, animal="cat\n{big|small} dog\n"))
    templates = Templates(texts=(text,), wildcards=found)
    assert templates.counts() == [len(list(templates.prompts()))]


def test_too_many_prompts_are_refused_with_their_number() -> None:
    ten = "{0|1|2|3|4|5|6|7|8|9}"
    with pytest.raises(BadSpecification, match=f"expand to 1,000,000,000 prompts; the maximum is {MOST:,}"):
        next(Templates(texts=(ten * 9,)).prompts())
    assert next(Templates(texts=(ten * 9,), random=1).prompts())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a { red", "character 3"),
        ("costs $5", "character 7"),
        ("a __beast__", "no wildcard named 'beast'; known wildcards: animal, loop"),
        ("a __loop__", "wildcards are circular"),
    ],
)
@pytest.mark.parametrize("random", [None, 3])
def test_a_template_that_cannot_be_expanded_is_refused(
    tmp_path: Path, text: str, says: str, random: int | None
) -> None:
    found = read_wildcards(wildcards(tmp_path, animal="cat\n", loop="more __loop__\n"))
    with pytest.raises(BadSpecification, match=says):
        next(Templates(texts=(text,), wildcards=found, random=random).prompts())


@pytest.mark.parametrize("files", [None, ()])
def test_a_folder_without_wildcards_is_refused(tmp_path: Path, files: Sequence[str] | None) -> None:
    with pytest.raises(InvalidInput, match="--wildcards"):
        read_wildcards(tmp_path / "nowhere" if files is None else tmp_path)


def test_templates_can_be_kept_and_expanded_elsewhere(tmp_path: Path) -> None:
    found = read_wildcards(wildcards(tmp_path, animal="cat\n2::dog\n"))
    templates = Templates(texts=("{a|b} __animal__",), wildcards=found, random=5, seed=3)
    again = Templates.model_validate_json(templates.model_dump_json())
    assert list(again.prompts()) == list(templates.prompts())
