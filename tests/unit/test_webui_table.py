"""Sixty prompts in the web UI's language, with what it makes of them worked out by hand from its documentation.

Of each: the prompts between `AND`s and their weights, until which of ten steps each of its texts is drawn, and the
weights of that text's words. `W` is 1.1, `V` is 1 / 1.1.
"""

import pytest

from storage.spec.webui_schedules import is_composed, place_at, schedule, texts
from tests.unit.webui_language import V, W, check_changes, check_together, check_weights

#: One prompt that does not change → its sections' words and weights.
WEIGHED: dict[str, list[list[tuple[str, float]]]] = {
    "a star": [[("a star", 1)]],
    "a (red) star": [[("a ", 1), ("red", W), (" star", 1)]],
    "a ((red)) star": [[("a ", 1), ("red", W * W), (" star", 1)]],
    "a [red] star": [[("a ", 1), ("red", V), (" star", 1)]],
    "[[red]]": [[("red", V * V)]],
    "(red:1.3)": [[("red", 1.3)]],
    "(red:0.5), blue": [[("red", 0.5), (", blue", 1)]],
    "(red: -1 )": [[("red", -1)]],
    "(red:+2)": [[("red", 2)]],
    "((red:1.5):0.5)": [[("red", 0.75)]],
    "((red:1.5))": [[("red", 1.5 * W)]],
    "[(red:1.5)]": [[("red", 1.5 * V)]],
    "(a (b) c:2)": [[("a ", 2), ("b", 2 * W), (" c", 2)]],
    "(red": [[("red", W)]],
    "[red": [[("red", V)]],
    "red)": [[("red)", 1)]],
    "red:1.3)": [[("red:1.3)", 1)]],
    "(red:blue)": [[("red:blue", W)]],
    "[red:blue]": [[("red:blue", V)]],
    "[a:b:c:0.5]": [[("a:b:c:0.5", V)]],
    r"\(red\)": [[("(red)", 1)]],
    r"(\(red\):1.2)": [[("(red)", 1.2)]],
    r"a\b": [[("ab", 1)]],
    "()": [[]],
    "": [[]],
    "a BREAK b": [[("a", 1)], [("b", 1)]],
    "a,BREAK\n(b)": [[("a,", 1)], [("b", W)]],
    "a BREAK": [[("a", 1)], []],
    "a BREAK BREAK b": [[("a", 1)], [], [("b", 1)]],
    "(a BREAK b)": [[("a", W), ("BREAK", -W), ("b", W)]],
    "BREAKER": [[("BREAKER", 1)]],
}

#: One prompt → until which of ten steps which text is drawn.
CHANGING: dict[str, list[tuple[int, str]]] = {
    "a [b:c:0.5] d": [(5, "a b d"), (10, "a c d")],
    "a [b:c:3] d": [(3, "a b d"), (10, "a c d")],
    "a [c:3]": [(3, "a "), (10, "a c")],
    "a [b::3]": [(3, "a b"), (10, "a ")],
    "a [:c:3]": [(3, "a "), (10, "a c")],
    "[b:c:.25]": [(2, "b"), (10, "c")],
    "[b:c:0.19]": [(1, "b"), (10, "c")],
    "[b:c:0]": [(10, "c")],
    "[b:c:0.05]": [(10, "c")],
    "[b:c:-1]": [(10, "c")],
    "[b:c:10]": [(10, "b")],
    "[b:c:99]": [(10, "b")],
    "[b:c:1]": [(1, "b"), (10, "c")],
    "[b:c:1.0]": [(10, "b")],
    "[b : c : 4 ]": [(4, "b "), (10, " c ")],
    "[(b:1.2):c:4]": [(4, "(b:1.2)"), (10, "c")],
    "([b:c:4]:1.2)": [(4, "(b:1.2)"), (10, "(c:1.2)")],
    "(red:[1.2:0.8:5])": [(5, "(red:1.2)"), (10, "(red:0.8)")],
    "[a:[b:c:6]:3]": [(3, "a"), (6, "b"), (10, "c")],
    "[[a:b:3]:c:6]": [(3, "a"), (6, "b"), (10, "c")],
    "[a:b:3] [c:d:6]": [(3, "a c"), (6, "b c"), (10, "b d")],
    "[[a]:3]": [(3, ""), (10, "[a]")],
    "x[a|b]": [(step, "x" + "ab"[(step - 1) % 2]) for step in range(1, 11)],
    "[a|b|c]": [(step, "abc"[(step - 1) % 3]) for step in range(1, 11)],
    "[fe|]male": [(step, "female" if step % 2 else "male") for step in range(1, 11)],
    "[[a|b]:c:2]": [(1, "a"), (2, "b"), *[(step, "c") for step in range(3, 11)]],
    "[a:[b|c]:8]": [*[(step, "a") for step in range(1, 9)], (9, "b"), (10, "c")],
    "[a BREAK b:c:5]": [(5, "a BREAK b"), (10, "c")],
    # A bar elsewhere, and a backslash before nothing: all of the prompt is letters.
    "a | [b:c:3]": [(10, "a | [b:c:3]")],
    "(a|b) [b:c:3]": [(10, "(a|b) [b:c:3]")],
    "[a|b:0.5] [b:c:3]": [(10, "[a|b:0.5] [b:c:3]")],
    "[b:c:3]\\": [(10, "[b:c:3]\\")],
    r"a \| [b:c:3]": [(3, r"a \| b"), (10, r"a \| c")],
    # Brackets without another, and around what means nothing, are letters.
    "(a [b:c:3]": [(3, "(a b"), (10, "(a c")],
    "[[a:b]:c:3]": [(10, "[[a:b]:c:3]")],
    "[b:c:3 steps]": [(10, "[b:c:3 steps]")],
    "[b:c:0,5]": [(10, "[b:c:0,5]")],
    r"\[b:c:3\]": [(10, r"\[b:c:3\]")],
}

#: Prompts that are put together, and their weights.
TOGETHER: dict[str, list[tuple[str, float]]] = {
    "a AND b": [("a", 1), (" b", 1)],
    "a :1.2 AND b:0.5": [("a", 1.2), (" b", 0.5)],
    "a : -0.5 AND b": [("a", -0.5), (" b", 1)],
    "a:1. AND b:.5": [("a", 1), (" b", 0.5)],
    "a AND": [("a", 1), ("", 1)],
    "a AND a": [("a", 1), (" a", 1)],
    "(a:1.2) AND b": [("(a:1.2)", 1), (" b", 1)],
    "SAND and b": [("SAND and b", 1)],
    "a star :2": [("a star", 2)],
    "in 16:9": [("in 16", 9)],
    "a: b": [("a: b", 1)],
    "a\nAND\nb :2\n": [("a", 1), ("\nb", 2)],
}


def test_the_table_has_sixty_prompts() -> None:
    assert len({*WEIGHED, *CHANGING, *TOGETHER}) >= 60


@pytest.mark.parametrize("prompt", WEIGHED)
def test_words_have_the_weights_that_they_have_in_the_web_ui(prompt: str) -> None:
    assert schedule(prompt, 10) == ((10, prompt),)
    check_weights(prompt, WEIGHED[prompt])


@pytest.mark.parametrize("prompt", CHANGING)
def test_words_change_at_the_steps_at_which_they_change_in_the_web_ui(prompt: str) -> None:
    check_changes(prompt, CHANGING[prompt])


@pytest.mark.parametrize("prompt", TOGETHER)
def test_prompts_are_put_together_with_the_weights_that_they_have_in_the_web_ui(prompt: str) -> None:
    check_together(prompt, TOGETHER[prompt])


def test_shares_are_of_the_pictures_own_steps() -> None:
    assert [schedule("[a:b:0.5]", steps)[0] for steps in (1, 4, 25)] == [(1, "b"), (2, "a"), (12, "a")]
    assert schedule("[a:b:1e400]", 25) == ((25, "a"),)
    assert texts("[a|b] [a|b|c]", 25) == ["a a", "b b", "a c", "b a", "a b", "b c"]


def test_a_change_comes_one_call_later_than_it_says() -> None:
    found = schedule("[a:b:2]", 4)
    assert [found[place_at(found, call)][1] for call in range(4)] == ["a", "a", "a", "b"]
    found = schedule("[a|b]", 4)
    assert [found[place_at(found, call)][1] for call in range(4)] == ["a", "a", "b", "a"]


@pytest.mark.parametrize(
    ("prompt", "negative", "is_so"),
    [
        ("a (red:1.2) [star] BREAK b", "AND", False),
        ("a [red:blue:0.5]", "", True),
        ("a", "[red|blue]", True),
        ("a AND b", "", True),
        ("a :1.2", "", True),
        ("a :1.0", "", False),
        ("a | [red:blue:0.5]", "", False),
    ],
)
def test_pictures_of_one_text_are_told_from_others(prompt: str, negative: str, is_so: bool) -> None:
    assert is_composed(prompt, negative) is is_so


def test_a_prompt_of_ten_thousand_brackets_is_read_at_once() -> None:
    deep = "(" * 4_000 + "[a:b:1]" + ")" * 4_000
    assert schedule(deep, 2)[0][1] == "(" * 4_000 + "a" + ")" * 4_000
    assert len(schedule("[" * 9_999, 2)) == 1
    assert len(schedule("[a:" * 3_333, 2)) == 1
