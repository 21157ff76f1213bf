"""Odd prompts in the web UI's language, as strangers write them: their weights and steps worked out by hand.

The rules: `(…)` multiplies by 1.1, `[…]` divides by it, `(…:w)` multiplies by w; what is never closed reaches to the
end, what closes nothing is a letter; `[a:b:when]` and `[a|b]` change the text (the web UI's wiki, "Features"; where it
is silent, the regular expressions and the grammar of its `prompt_parser.py`).
"""

import pytest

from tests.unit.webui_language import V, W, check_changes, check_together, check_weights

WEIGHED: dict[str, list[list[tuple[str, float]]]] = {
    "((a (b:0.5)) c": [[("a ", W * W), ("b", 0.5 * W * W), (" c", W)]],
    "(a:1.)": [[("a", 1)]],
    "(a:-.5)": [[("a", -0.5)]],
    "(a:+.5)": [[("a", 0.5)]],
    "(a::1.3)": [[("a:", 1.3)]],
    "(a:1.3:1.4)": [[("a:1.3", 1.4)]],
    "(a:5:30)": [[("a:5", 30)]],
    "(a:1,3)": [[("a:1,3", W)]],
    "(a:1e2)": [[("a:1e2", W)]],
    "(a:\n1.3\t)": [[("a", 1.3)]],
    "(a:١.٣)": [[("a", 1.3)]],
    "[a:1.3)": [[("a:1.3)", V)]],
    "(a]b)": [[("a]b", W)]],
    "([a)b]": [[("a", W * V), ("b", V)]],
    "[(a]b)": [[("a", W * V), ("b", W)]],
    r"\\(a)": [[("\\", 1), ("a", W)]],
    r"\(a:1.3)": [[("(a:1.3)", 1)]],
    r"(a\)": [[("a)", W)]],
    r"(a\:1.3)": [[("a", 1.3)]],
    "((a)b:2)": [[("a", 2 * W), ("b", 2)]],
    "(((a:0)))": [[("a", 0)]],
    "(:1.3)": [[]],
    "( :1.3)": [[(" ", 1.3)]],
    "(a:1.3)(b:1.3)": [[("ab", 1.3)]],
    "(a:1.1)(b)": [[("ab", W)]],
    "(a BREAK b:1.3)": [[("a", 1.3), ("BREAK", -1.3), ("b", 1.3)]],
    "BREAK": [[], []],
    "BREAK BREAK": [[], [], []],
    "aBREAK b": [[("aBREAK b", 1)]],
    "BREAK, a": [[], [(", a", 1)]],
    "a\nBREAK\n(b": [[("a", 1)], [("b", W)]],
    "（a:1.3）［b］": [[("（a:1.3）［b］", 1)]],
    "(ä😀:1.2)é": [[("ä😀", 1.2), ("é", 1)]],
    "a (b:1.2": [[("a ", 1), ("b:1.2", W)]],
    "]) a [(": [[("]) a ", 1)]],
}

CHANGING: dict[str, list[tuple[int, str]]] = {
    "[a:b:0.5:c:8]": [(10, "[a:b:0.5:c:8]")],
    "[a:b:+3]": [(3, "a"), (10, "b")],
    "[a:b:3.]": [(10, "a")],
    "[a:b:1e1]": [(10, "a")],
    "[a::1]": [(1, "a"), (10, "")],
    "[::3]": [(3, ""), (10, "")],
    "[:b:10]": [(10, "")],
    "[a::0.5]": [(5, "a"), (10, "")],
    "[ a : b : 0.5 ]": [(5, " a "), (10, " b ")],
    "[a|]": [(step, "a" if step % 2 else "") for step in range(1, 11)],
    "[a||b]": [(step, ("a", "", "b")[(step - 1) % 3]) for step in range(1, 11)],
    "[a|b:c]": [(10, "[a|b:c]")],
    "[a:b|c:3]": [(10, "[a:b|c:3]")],
    "[(a|b):c:3]": [(10, "[(a|b):c:3]")],
    "[[a:b:3]|c]": [(step, "c" if step % 2 == 0 else "a" if step <= 3 else "b") for step in range(1, 11)],
    "[a:b:3]x[c:d:3]": [(3, "axc"), (10, "bxd")],
    "[((a)):[b]:4]": [(4, "((a))"), (10, "[b]")],
    "[a:b:0.999]": [(9, "a"), (10, "b")],
    "[[[a:b:2]:c:4]:d:6]": [(2, "a"), (4, "b"), (6, "c"), (10, "d")],
    "[a\n:b:5]": [(5, "a\n"), (10, "b")],
    "[a:b:５]": [(10, "[a:b:５]")],
    "[a: b, c :5]": [(5, "a"), (10, " b, c ")],
    "a:1.2 [b:c:5]": [(5, "a:1.2 b"), (10, "a:1.2 c")],
}

TOGETHER: dict[str, list[tuple[str, float]]] = {
    "AND": [("", 1), ("", 1)],
    "a AND AND b": [("a", 1), ("", 1), (" b", 1)],
    "a :-1.5 AND b : 2": [("a", -1.5), (" b", 2)],
    "a:1.2:0.5 AND b": [("a:1.2", 0.5), (" b", 1)],
    "(a:1.2):0.5 AND [b:c:0.5] :0.5": [("(a:1.2)", 0.5), (" [b:c:0.5]", 0.5)],
    "a AND_b": [("a AND_b", 1)],
    "a,AND,b": [("a,", 1), (",b", 1)],
    "a :1e1": [("a :1e1", 1)],
}


def test_there_are_more_than_forty() -> None:
    assert len({*WEIGHED, *CHANGING, *TOGETHER}) > 60


@pytest.mark.parametrize("prompt", WEIGHED)
def test_words_have_the_weights_that_the_rules_give_them(prompt: str) -> None:
    check_weights(prompt, WEIGHED[prompt])


@pytest.mark.parametrize("prompt", CHANGING)
def test_texts_change_at_the_steps_that_the_rules_say(prompt: str) -> None:
    check_changes(prompt, CHANGING[prompt])


@pytest.mark.parametrize("prompt", TOGETHER)
def test_prompts_are_put_together_by_the_rules(prompt: str) -> None:
    check_together(prompt, TOGETHER[prompt])
