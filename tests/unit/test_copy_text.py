"""What is written for PostgreSQL's COPY is read as what it was; `tests/contract/test_acceptance.py` asks the server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.database.copy_text import copied_values, copy_line


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1))
def test_a_row_is_one_line_and_reads_back(values: list[str | int | None]) -> None:
    line = copy_line(values)
    assert line.count("\n") == 1
    assert copied_values(line) == [str(value) if isinstance(value, int) else value for value in values]


@pytest.mark.parametrize("text", ["\\N", "\\", "\\.", "a\tb", "a\nb", "a\rb", "\\t", "", "\x08\x0b\x0c\x7f\u2028\x85"])
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert copied_values(copy_line([text, None])) == [text, None]
