"""What is asked in Compel's language happens, or is refused by name."""

import pytest

from storage.spec.compel_prompts import check

REFUSED = [
    ("a cat.swap(dog)", r"\.swap\(\) changes nothing"),
    ('("a cat").swap("a dog", s_end=0.5)', r"\.swap\(\) changes nothing"),
    ("(a cat) .swap(dog)", r"\.swap\(\) changes nothing"),
    ("a cat withLora(ink, 0.5)", r"withLora\(\) changes nothing here; name LoRAs in the field"),
    ("useLora(ink) a cat", "the field `loras`"),
    ('("red", "blue").blend(1, -1)', r"\.blend\(1, -1\) add up to 0"),
    ('("a", "b", "c").blend(0.5,0.5,-1)', r"\.blend\(0.5, 0.5, -1\) add up to 0"),
    ('("a", "b").blend(0, 0)', "add up to 0"),
    ("(blue)-0.5", "-0.5 at character 7: weights have no sign; write 0.5"),
    ("(blue)+1.5 sky", r"\+1.5 at character 7"),
    ('"blue"-.5', "-.5 at character 7"),
    ("((a)1.2)--2", "--2 at character 9"),
    ("(red).attend(-0.5)", r"\.attend\(-0.5\): weights cannot be negative"),
    ('("a", "b").and() in a garden', r"\.and\(\) must be the whole prompt"),
    ('a ("x", "y").blend(1, 1) b', r"\.blend\(\) must be the whole prompt"),
    ('("a", "b").mix(1, 1)', r"Compel has no \.mix\(\)"),
    ("(a cat).times(2)", r"Compel has no \.times\(\)"),
    ("a (red star", r"'\(' at character 3 is never closed"),
    ("a red) star", r"'\)' at character 6 closes nothing"),
    ("a (foo - bar)1.2 star", r"group at character 3 would be drawn as letters: Compel does not read '-'"),
    ("a (foo + bar)1.2", r"does not read '\+'"),
    ("(one --)++ two", "does not read '--'"),
    ("(a=b)1.5", "does not read '='"),
    ('"a - b"1.5', "does not read '-'"),
    ('(5" tall)1.5', "does not read '\"'"),
    ("(a (b - c)1.2 d)1.5", "does not read '-'"),
    ("a (red)1,2 star", r"1,2 at character 8 is read as the weight 1 and more words"),
    ("(red)10001", "the weight 10001 is more than 10,000"),
    (f"a ((red)0.5){'9' * 400} star", "the weight 9{20} is more than 10,000"),
    (f"star{'+' * 97}", r"the weight \+{20} is more than 10,000"),
    (f'("a", "b").blend({"9" * 400}, 1)', "the weight inf is more than 10,000"),
    ('("a", "b").and(1, -20000)', "the weight -20000 is more than 10,000"),
    ("(two)2x zoom", "2x at character 6"),
]
TAKEN = [
    "a (red)1.4 star, word++ other--",
    "(blue)- sky, (blue)-- 5 cats",
    '("a cat", "a dog").blend(1, 0.5)',
    '("a cat", "a dog").blend(1, -1, no_normalize)',
    '("a (big)1.2 cat", "a dog").and(1, 0.5)',
    '("a", "b").and()',
    "(red).attend(1.5), (blue).attend(--)",
    "(red)9999, (blue)0, star" + "+" * 96,
    "a (cat). It (sits), f1.8-2.0",
    "a (cat).png (x)",
    r"\(letters\)-0.5",
    "well-known (x)1, sd-1.5",
    "",
]


@pytest.mark.parametrize(("prompt", "reason"), REFUSED)
def test_what_compel_accepts_and_does_not_do_is_refused_by_name(prompt: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check(prompt)


@pytest.mark.parametrize("prompt", TAKEN)
def test_what_compel_does_is_taken(prompt: str) -> None:
    check(prompt)
