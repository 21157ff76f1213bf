"""The web UI's prompt language: what its documentation says a prompt means."""

import pytest

from storage.errors import BadSpecification
from storage.spec.picture import Request
from storage.spec.registry import parse_registry
from storage.spec.webui_prompts import (
    check,
    check_composition,
    is_plain,
    parse,
    remarks,
    take_loras,
    without_comments,
)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(red:1.5) star", [("red", 1.5), (" star", 1.0)]),
        ("(red : 1.5 ) star", [("red ", 1.5), (" star", 1.0)]),
        ("a ((x))", [("a ", 1.0), ("x", 1.21)]),
        ("a [x]", [("a ", 1.0), ("x", 1 / 1.1)]),
        ("[[x]]", [("x", 1 / 1.21)]),
        ("([x])", [("x", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("un)balanced]", [("un)balanced]", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"a \(b\) (c)", [("a (b) ", 1.0), ("c", 1.1)]),
        (r"back\slash \\ end", [("backslash \\ end", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("time: 5:30", [("time: 5:30", 1.0)]),
        ("a :1.5) b", [("a :1.5) b", 1.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(a:.5)", [("a", 0.5)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(a:0)", [("a", 0.0)]),
        ("((a:1.2) b:0.5)", [("a", 0.6), (" b", 0.5)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("(ein großer Stern ⭐:1.3), 星", [("ein großer Stern ⭐", 1.3), (", 星", 1.0)]),
        ("(line\nbreak)", [("line\nbreak", 1.1)]),
        ("", []),
    ],
)
def test_brackets_weigh_words(prompt: str, pieces: list[tuple[str, float]]) -> None:
    [found] = parse(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_break_begins_a_section() -> None:
    assert parse("a red star BREAK (blue:1.2) ground") == [[("a red star", 1.0)], [("blue", 1.2), (" ground", 1.0)]]
    assert parse("BREAK a") == [[], [("a", 1.0)]]
    assert parse("BREAKFAST") == [[("BREAKFAST", 1.0)]]


@pytest.mark.parametrize("prompt", ["a star", "a: b, c-d", "C++ and #1", "5.5 m {x} <e>", ""])
def test_plain_prompts_are_plain(prompt: str) -> None:
    assert is_plain(prompt)


@pytest.mark.parametrize(
    "prompt", ["(a)", "[a]", r"\(a\)", "a BREAK b", "a (b", "(a:1)", "()", "\\", "a AND b", "a :1.2"]
)
def test_prompts_in_the_language_are_not(prompt: str) -> None:
    assert not is_plain(prompt)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a <lora:ink:0.8>", "loras"),
        ("a <hypernet:x:1>", "loras"),
        ("(a:1.2.3)", "'1.2.3' is not a number"),
        ("(a:10001)", "its weights come to 10001; of more than 10,000 there is no picture"),
        (f"(a:-{'9' * 400})", "its weights come to -inf"),
        (f"((a:0) b:{'9' * 400})", "its weights come to nan"),
        ("(" * 97 + "a", "its weights come to 10353.6"),
        ("[b:(a:99999):0.5]", "its weights come to 99999"),
        ("a AND b :20000", "its weights come to 20000"),
        ("[a:(b:1.2.3):0.5]", "'1.2.3' is not a number"),
        ("a AND (b:1.2.3)", "'1.2.3' is not a number"),
        (" AND ".join("abcdefghi"), "AND puts 9 prompts together; the most is 8"),
        ("[" * 21 + "a" + ":0.5]" * 21, "nested more than 20 deep"),
        ("[a|b] [a|b|c] [a|b|c|d|e] [a|b|c|d|e|f|g]", "change 120 times in 60 steps; at most 100 different texts"),
        ("[" + "a" * 9_000 + "|b]" + "[c|d|e|f|g|h|i|j|k|l|m|n|o]", "of 100000 characters together"),
    ],
)
def test_what_the_farm_does_not_have_of_the_language_is_refused(prompt: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(prompt, steps=60)


@pytest.mark.parametrize(
    "prompt",
    ["[red:blue]", "[a:b:c:d:0.5]", "a | b", "land and sea", "SAND", r"\[a|b\]", "[a", "a] [b", "(a|b)", "[a|b]"],
)
def test_what_only_looks_like_it_is_not(prompt: str) -> None:
    check(prompt)


def test_a_negative_prompt_is_not_put_together() -> None:
    check(" AND ".join("abcdefghi"), negative=True)


@pytest.mark.parametrize("prompt", ["a AND b", "a :0.5 AND [b|c]"])
def test_prompts_that_are_put_together_need_guidance(prompt: str) -> None:
    check_composition(prompt, guidance_scale=1.5, guess_mode=False)
    with pytest.raises(ValueError, match=r"give a guidance_scale above 1 \(given: 1\)"):
        check_composition(prompt, guidance_scale=1.0, guess_mode=False)
    with pytest.raises(ValueError, match="guess_mode"):
        check_composition(prompt, guidance_scale=7.0, guess_mode=True)
    check_composition("one prompt (of weight:1.2), 16:9", guidance_scale=1.0, guess_mode=True)


@pytest.mark.parametrize(
    ("prompt", "drawn"),
    [
        ("a star", "a star"),
        ("a star # not (now:1.3)", "a star"),
        ("# all of it", ""),
        ("# first\na star\n  # <lora:ink:1>\non red # ground", "a star\n\non red"),
        (r"a \#star", "a \\"),
    ],
)
def test_comments_are_not_drawn(prompt: str, drawn: str) -> None:
    assert without_comments(prompt) == drawn


def test_a_prompt_in_the_language_is_resolved_without_comments_and_with_its_loras() -> None:
    registry = parse_registry(
        '[models.m]\nkind = "diffusers"\nsource = "a/b"\npipeline = "StableDiffusionPipeline"\n'
        '[loras.detail-tweaker]\nsource = "a/l"\n',
        where="here",
    )
    asked = {"prompt": "a <lora:Detail Tweaker:0.5> star # <lora:gone:1>", "negative_prompt": "dull # dark"}
    spec = registry.resolve(Request.parse({**asked, "prompt_weighting": "webui"}), seed=1)
    assert (spec.prompt, spec.negative_prompt, spec.loras) == ("a  star", "dull", {"detail-tweaker": 0.5})
    # In any other mode a # is a letter.
    assert registry.resolve(Request.parse({"prompt": "star #1"}), seed=1).prompt == "star #1"
    with pytest.raises(BadSpecification, match="prompt: must not be empty"):
        registry.resolve(Request.parse({"prompt": "# nothing", "prompt_weighting": "webui"}), seed=1)


@pytest.mark.parametrize(
    ("prompt", "left", "scales"),
    [
        ("a star", "a star", {}),
        ("a star <lora:ink:0.8>", "a star", {"ink": 0.8}),
        ("<lora:ink>a star", "a star", {"ink": 1.0}),
        ("a <lora:ink:.5>, <lyco:oil.v2:-0.5> star", "a ,  star", {"ink": 0.5, "oil.v2": -0.5}),
        ("<lora:ink:0.8:0.8>", "", {"ink": 0.8}),
        ("<lora:ink:te=0.8:unet=0.8>", "", {"ink": 0.8}),
        ("(<lora:ink:1>a:1.2)", "(a:1.2)", {"ink": 1.0}),
        ("1 < 2 > 0", "1 < 2 > 0", {}),
    ],
)
def test_lora_tags_become_scales(prompt: str, left: str, scales: dict[str, float]) -> None:
    assert take_loras(prompt) == (left, scales)


@pytest.mark.parametrize(
    "prompt",
    [
        "<lora:ink:much>",
        "<lora:ink:0.8:0.5>",
        "<lora:ink:unet=0.5>",
        "<lora:ink:1:1:8>",
        "<lora:ink:1:te=1>",
        "<lora:ink:lbw=OUTALL>",
        "<lora:ink:1><lora:ink:0.5>",
        "<hypernet:x:1>",
        "<segment:x>",
    ],
)
def test_tags_that_would_not_happen_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="supported|not a number|named twice"):
        take_loras(prompt)


@pytest.mark.parametrize("prompt", ["[<lora:ink:1>:0.5] a", "a [b|c <lora:ink:1>]", "a AND [(b<lora:ink:1>):c:1]"])
def test_a_lora_that_would_not_change_with_its_words_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="is on for all steps; put it outside"):
        take_loras(prompt)
    assert take_loras("[<lora:ink:1>a] (b<lora:oil:1>) [c:d:1]") == ("[a] (b) [c:d:1]", {"ink": 1.0, "oil": 1.0})


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("(red:1.5)", ["(word:1.3)"]),
        ("a ((x)) b", ["(word:1.3)"]),
        ("a [x]", ["(word:1.3)"]),
        ("a BREAK b", ["(word:1.3)"]),
        ("a [red:blue:0.5] star", ["(word:1.3)"]),
        ("a [red|blue] star", ["(word:1.3)"]),
        ("a cat AND a dog", ["AND of the web UI"]),
        ("a cat AND a dog, A BIRD", ["AND of the web UI"]),
        ("CATS AND DOGS", []),
        ("a cat and a dog", []),
        ("<lora:x:0.8>", ["<lora:NAME:WEIGHT>"]),
        ("(red:1.5) <lora:x:0.8>", ["(word:1.3)", "<lora:NAME:WEIGHT>"]),
        ("a photo (1990)", []),
        (r"\(red:1.5\)", []),
        ("at 5:30 (Paris)", []),
        ("(red)1.5 and blue++", []),
        ("a <b> c", []),
    ],
)
def test_the_language_is_noticed_where_it_is_not_read(prompt: str, said: list[str]) -> None:
    found = list(remarks("prompt", prompt))
    assert len(found) == len(said)
    assert all(words in remark for words, remark in zip(said, found, strict=True))
