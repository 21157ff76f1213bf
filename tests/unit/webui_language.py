"""What a table says of a prompt in the web UI's language, compared with what the farm makes of that prompt."""

from collections.abc import Sequence

import pytest

from storage.spec.webui_prompts import parse
from storage.spec.webui_schedules import prompts, schedule

W, V = 1.1, 1 / 1.1

#: Words and their weights.
Weighed = Sequence[tuple[str, float]]

#: How many steps the tables' pictures have.
STEPS = 10


def check_weights(prompt: str, sections: Sequence[Weighed]) -> None:
    """Compare the words and weights of a prompt's sections, which `BREAK` divides."""
    found = parse(prompt)
    assert [[words for words, _ in section] for section in found] == [
        [words for words, _ in section] for section in sections
    ]
    assert [weight for section in found for _, weight in section] == pytest.approx(
        [weight for section in sections for _, weight in section]
    )


def check_changes(prompt: str, changes: Sequence[tuple[int, str]]) -> None:
    """Compare until which of ten steps which text is drawn."""
    assert list(schedule(prompt, STEPS)) == list(changes)


def check_together(prompt: str, weighed: Weighed) -> None:
    """Compare the prompts between `AND`s and their weights."""
    assert prompts(prompt) == weighed
