import pytest

from storage.spec.other_languages import remarks


def told(prompt: str, weighting: str | None = None) -> list[str]:
    return list(remarks("prompt", prompt, weighting))


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a cat --steps 4", "--steps 4"),
        ("a cat --ar=16:9", "--steps 4"),
        ("a cat --tile", "--steps 4"),
        ("--no dogs, a cat", "--steps 4"),
        ("a cat \u2014n blurry", "--steps 4"),
        ("a cat \u2013-steps 4", "--steps 4"),
        ("a cat \u2014w=512", "--steps 4"),
        ("a {red|blue} cat", "--template"),
        ("a __animal__", "--template"),
        ("a __pets/small*__, x", "--template"),
        ("{2$$red}", "--template"),
        ("${color} cat", "--template"),
        ("a (red)1.4 cat", "compel"),
        ("a (red)+ cat", "compel"),
        ("a red++ cat", "compel"),
        ('("a", "b").blend(1, 1)', "compel"),
        ("a cat\nNegative prompt: blurry", "Steps: 20"),
        ("a cat\nsteps: 20, Seed: 5", "Steps: 20"),
        ("embedding:easy a cat", "embedding:NAME"),
        ("{{masterpiece}}, a cat", "NovelAI"),
        ("1.3::red::, a cat", "NovelAI"),
        ("{prompt}, oil painting", "styles are not filled in"),
        ("a cat &amp; a dog", "HTML"),
        (r"a cat\nNegative prompt: blurry", "Steps: 20"),
        ("/imagine prompt: a cat", "/imagine"),
        ("a (red:1.3) cat", "web UI"),
    ],
)
def test_what_another_tool_would_read_and_is_drawn_as_words_is_told(prompt: str, word: str) -> None:
    [remark] = told(prompt)
    assert word in remark
    assert remark.startswith("prompt: ")


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat, sitting on a mat (1990), C++ on its screen",
        "a well-known cat -- asleep -- in the sun",
        "the sea \u2014 a storm \u2014 and a ship",
        "the sea \u2014so wide\u2014 at night",
        "snake_case and __init__py, a {curly} sign",
        "5:30 in the evening, a 16:9 picture",
        "std::vector in a book, a ratio of 1::2",
        "a star (of David), and a moon",
        "Steps: a stairway",
        "a cat\non a mat",
        "a price of 5$, 100%",
        "cats & dogs; birds",
    ],
)
def test_ordinary_words_have_no_remark(prompt: str) -> None:
    assert told(prompt) == []


def test_a_language_that_is_read_has_no_remark() -> None:
    assert told("a (red)1.4 cat, red++", "compel") == []
    assert told("a (red:1.4) cat, ((red)), [red:blue:0.5], [a|b] AND <lora:ink:1>", "webui") == []
    assert told("a (red:1.4) cat", "compel") != []


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("(red)1.4 star", "prompt_weighting compel reads them"),
        ("a | b, [red:blue:0.5]", "where there is a | outside of brackets"),
        ("[red:blue:0.5] \\", "a backslash before nothing"),
        ("[red:blue:0,5]", "are not quite so"),
        ("[red:blue:green:0.5]", "are not quite so"),
        ("[red:blue:50%]", "are not quite so"),
        ("(a BREAK b:1.2)", "put it outside of them"),
        ("a picture in 16:9", "is the weight of the whole prompt"),
    ],
)
def test_what_the_web_uis_language_draws_as_words_is_told(prompt: str, words: str) -> None:
    [said] = told(prompt, "webui")
    assert words in said


def test_a_negative_prompt_in_the_web_uis_language_has_no_and() -> None:
    [said] = remarks("negative_prompt", "a AND b:2", "webui")
    assert said.startswith("negative_prompt: AND is drawn as a word")


@pytest.mark.parametrize("word", ["nan", "NaN", "NULL", "None", "<NA>", " n/a "])
def test_what_programs_write_into_empty_cells_is_told_and_kept(word: str) -> None:
    from storage.spec.picture import Request

    [remark] = list(remarks("negative_prompt", word, None))
    assert "empty cell" in remark
    read = Request.parse_strings({"prompt": "a star", "negative_prompt": word})
    assert read.negative_prompt == word
    assert told("none of the stars") == told("nano, bananas") == []
