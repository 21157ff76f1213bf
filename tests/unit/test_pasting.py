"""What is copied from the page and pasted elsewhere means what it says."""

import json
import subprocess

import pytest

from scheduler.api.page.pasting import seen_json, shell_line

_TEXTS = (
    'it\'s "a" $HOME `id` $(id) !x \\ {a|b} *',
    "two\nlines\tand a\r\nreturn, at last\n",
    "\x1b[31mred\x07 !x 'q' \\n é\x85\x7f",
    "\u202eturned round\u202c \U000e0041 \u2028 \ufeff",
    "👩\u200d👩\u200d👧 שלום",
    "--negative",
    "",
)


def test_a_shell_reads_the_words_that_were_meant() -> None:
    line = shell_line(["printf", r"%s\0", *_TEXTS])
    ended = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert ended.stdout.decode().split("\0") == [*_TEXTS, ""]


def test_json_means_the_same_with_all_of_it_seen() -> None:
    assert json.loads(seen_json(json.dumps(_TEXTS, ensure_ascii=False, indent=2))) == list(_TEXTS)


@pytest.mark.parametrize("text", _TEXTS)
def test_nothing_is_a_key_to_a_terminal_or_turns_text_round(text: str) -> None:
    shown = shell_line([text]) + seen_json(json.dumps(text, ensure_ascii=False))
    assert not [one for one in shown if one in "\n\t\r\x07\x1b\x7f\x85\u202e\u202c\u2028\ufeff\U000e0041"]


def test_what_is_seen_as_it_is_stays_as_it_is() -> None:
    assert shell_line(["--seed", "3", "👩\u200d👧 שלום"]) == "--seed 3 '👩\u200d👧 שלום'"
    assert seen_json('["👩\u200d👧 שלום"]') == '["👩\u200d👧 שלום"]'
