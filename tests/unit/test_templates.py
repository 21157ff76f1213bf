from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from scheduler.intake.files.wildcards import WildcardValue
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


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ("3::red\nblue\ngreen\n", ["red", "blue", "green"]),
        ("0.2::red\n.3::blue\n", ["red", "blue"]),
        ("2.5::red\n2::{light|dark} blue\n", ["red", "light blue", "dark blue"]),
    ],
)
def test_weights_change_nothing_where_every_combination_is_made(tmp_path: Path, lines: str, values: list[str]) -> None:
    found = read_wildcards(wildcards(tmp_path, colour=lines))
    templates = Templates(texts=("a __colour__ star", "{__colour__}"), wildcards=found)
    assert list(templates.prompts()) == [f"a {value} star" for value in values] + values
    assert templates.counts() == [len(values)] * 2


def test_weights_count_where_several_values_are_drawn(tmp_path: Path) -> None:
    found = read_wildcards(wildcards(tmp_path, colour="1::red\n8::blue\n1::green\n0.5::grey\n"))
    drawn = list(Templates(texts=("{2$$ $$__colour__}",), wildcards=found, random=1000, seed=1).prompts())
    first = [prompt.split(" ")[0] for prompt in drawn]
    assert set(first) == {"red", "blue", "green", "grey"}
    # 8 in 10.5, give or take five standard deviations.
    assert 695 < first.count("blue") < 829
    # The second is drawn by the weights of those that are left: 1 in 2.5 where blue went first.
    second = [prompt.split(" ")[1] for prompt in drawn if prompt.startswith("blue")]
    assert 0.3 < second.count("red") / len(second) < 0.5
    assert 0.3 < second.count("green") / len(second) < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "a star #1 on {} ground",
        "#{}",
        "http://example.org/{}",
        "either//or {}",
        "a /* b */ {}",
        "a /*b {}",
        "* {} * / #",
    ],
)
@pytest.mark.parametrize("random", [None, 4])
def test_signs_that_begin_comments_elsewhere_are_part_of_the_prompt(
    tmp_path: Path, text: str, random: int | None
) -> None:
    found = read_wildcards(wildcards(tmp_path, colour="red #1\nblue // 2\n"))
    for choice, values in (("{red|blue}", ["red", "blue"]), ("__colour__", ["red #1", "blue // 2"])):
        drawn = list(Templates(texts=(text.replace("{}", choice),), wildcards=found, random=random).prompts())
        expected = [text.replace("{}", value) for value in values]
        assert drawn == expected if random is None else set(drawn) <= set(expected)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("colour.txt", b"red\r\n\r\n# a comment\r\n  gr\xc3\xbcn \r\n2::blue"),
        ("colour.txt", "\ufeffred\rgr\xfcn\r2::blue\r".encode()),
        ("colour.TXT", "red\ngr\xfcn\n2::blue\n".encode("utf-16")),
        ("colour.json", '["red", "gr\xfcn", "2::blue"]'.encode("utf-16")),
        ("some.json", b'{"colour": ["red", "gr\xc3\xbcn", {"text": "blue", "weight": 2}]}'),
        ("some.yaml", b"colour:\n  - red\n  - gr\xc3\xbcn\n  - {content: blue, weight: 2}\n"),
        ("some.yml", b"\xef\xbb\xbfcolour: [red, gr\xc3\xbcn, '2::blue']\n"),
    ],
)
def test_wildcard_files_are_read_as_prompt_files_are(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert {
        wildcard: [(one.text, one.weight) for one in values] for wildcard, values in read_wildcards(tmp_path).items()
    } == {"colour": [("red", 1.0), ("gr\xfcn", 1.0), ("blue", 2.0)]}


def test_wildcards_are_named_by_folder_file_and_key(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / ".hidden").mkdir()
    wildcards(tmp_path / ".hidden", secret="x\n")
    wildcards(tmp_path / "pets", dog="rex\n")
    (tmp_path / "pets/more.yaml").write_text("cat:\n  big: [tom]\n  year: 1984\n")
    assert {name: [one.text for one in values] for name, values in read_wildcards(tmp_path).items()} == {
        "pets/dog": ["rex"],
        "pets/cat/big": ["tom"],
        "pets/cat/year": ["1984"],
    }
    assert expanded("__pets/*__", folder=tmp_path) == ["rex", "tom", "1984"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", b"red\ngr\xfcn\n", "a.txt line 2: not UTF-8 text"),
        ("a.txt", b"#1 red\n", "a.txt line 1: begins with #"),
        ("a.txt", b"red\n0::blue\n", "a.txt line 2: weight 0: must be above 0"),
        ("a.txt", b"-1::blue\n", "a.txt line 1: -1: not a weight"),
        ("a.json", b'["red"', "a.json: not JSON"),
        ("a.json", b'[{"name": "red"}]', "a.json: a 1: must be text"),
        ("a.yaml", b"a: [red\nb: c", "a.yaml: line 2: not YAML"),
        ("a.yaml", b"a: [red, yes]", "a.yaml: a 2: must be text .given: 'True'.; in YAML"),
        ("a.yaml", b"a: [red]\nb: [blue]\na: [green]\n", "a.yaml: line 3: not YAML: duplicate key a"),
        ("a.json", b'{"a": ["red"], "a": ["green"]}', "a.json: a: duplicate key; give it once"),
        ("a.yaml", b"a: [{text: red, weight: big}]\n", "a.yaml: a 1: weight: must be a number"),
        ("b.yaml", b"a: red", "the wildcard a is in another file, too"),
    ],
)
def test_what_is_no_wildcard_is_refused_with_its_place(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    if name == "b.yaml":
        wildcards(tmp_path, a="blue\n")
    with pytest.raises(InvalidInput, match=says):
        read_wildcards(tmp_path)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        (r"a \{b|c\} {d|e}", ["a {b|c} d", "a {b|c} e"]),
        (r"{a\|b|c}", ["a|b", "c"]),
        (r"for 5\$, 100\% {a}", ["for 5$, 100% a"]),
        (r"a \__init\__", ["a __init__"]),
        (r"a \(b\) \\ {c}", [r"a \(b\) \\ c"]),
    ],
)
def test_a_backslash_makes_a_letter_of_a_special_sign(text: str, prompts: list[str]) -> None:
    assert list(Templates(texts=(text,)).prompts()) == prompts


def test_a_variable_that_is_evaluated_once_takes_every_value_and_the_same_throughout() -> None:
    template = Templates(texts=("${c=!{red|blue}}a ${c} star on ${c}",))
    assert list(template.prompts()) == ["a red star on red", "a blue star on blue"]
    assert template.counts() == [2]

    chained = Templates(texts=("${a=!{x|y}}${b=!${a}{1|2}}${a} ${b}",))
    assert list(chained.prompts()) == ["x x1", "x x2", "y y1", "y y2"]


def test_a_variable_is_drawn_anew_for_each_prompt() -> None:
    found = list(Templates(texts=("${a=!{x|y}}${b=!${a}}${a} ${b}",), random=40).prompts())
    assert set(found) == {"x x", "y y"}


def test_a_value_on_several_lines_is_drawn_as_often() -> None:
    lines = (*[WildcardValue(text="red")] * 9, WildcardValue(text="blue"))
    found = Counter(Templates(texts=("__color__",), wildcards={"color": lines}, random=1000).prompts())
    assert 850 < found["red"] < 950
    assert list(Templates(texts=("__color__",), wildcards={"color": lines}).prompts()) == ["red", "blue"]


def test_what_is_wrong_with_a_wildcards_value_is_said_of_the_value() -> None:
    values = (WildcardValue(text="a"), WildcardValue(text="5$ bill"))
    with pytest.raises(BadSpecification, match=r"the value '5\$ bill' of the wildcard 'money': syntax error at char"):
        Templates(texts=("a __money__",), wildcards={"money": values}).counts()


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
        "{1-5$$a|b}",
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
        ("a __beast__", "no wildcard named 'beast'; known wildcards: animal, loop, none"),
        ("a __loop__", "wildcards are circular"),
        ("a __none__", "the wildcard 'none' has no values"),
        ("a ${colour} star", "no variable named 'colour'"),
        ("{0::red|blue}", "a weight of 0"),
        ("{-1::red|blue}", "-1: not a weight"),
        ("{5$$a|b}", "it chooses 5 of 2 values"),
        ("{3$$__animal__}", "it chooses 3 of 1 values"),
        ("${c={red|blue}}", "it gives the variable 'c' a value, and has nothing to draw"),
        ("{red|blue}} star", "'}' at character 11 closes nothing"),
        (" ", "an empty template"),
    ],
)
@pytest.mark.parametrize("random", [None, 3])
def test_a_template_that_cannot_be_expanded_is_refused(
    tmp_path: Path, text: str, says: str, random: int | None
) -> None:
    found = read_wildcards(wildcards(tmp_path, animal="cat\n", loop="more __loop__\n", none="\n"))
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


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("a star", ["animal", "deep/fish"]),
        ("an __animal__", ["deep/fish"]),
        ("__~animal__, __deep/fish(size=large)__", []),
        ("__animal____deep/fish__", []),
        ("__deep/*__", []),
        ("${x=animal}__${x}__", []),
    ],
)
def test_wildcards_that_no_template_names_are_told(text: str, unread: list[str]) -> None:
    lists = {"animal": [{"text": "cat"}], "deep/fish": [{"text": "eel"}]}
    assert Templates.model_validate({"texts": (text,), "wildcards": lists}).unread() == unread
