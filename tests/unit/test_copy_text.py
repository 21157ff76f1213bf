"""What is written for PostgreSQL's COPY is read as what it was; `tests/contract/test_acceptance.py` asks the server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.database.copy_text import copied_values, copy_lines

VALUES = st.one_of(st.none(), st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.just("plain"))


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[VALUES] * n), min_size=1, max_size=4)))
def test_a_row_is_one_line_and_reads_back(rows: list[tuple[str | int | None, ...]]) -> None:
    lines = copy_lines(rows).split("\n")[:-1]
    assert len(lines) == len(rows)
    for line, values in zip(lines, rows, strict=True):
        assert copied_values(line) == [str(value) if isinstance(value, int) else value for value in values]


@pytest.mark.parametrize("text", ["\\N", "\\", "\\.", "a\tb", "a\nb", "a\rb", "\\t", "", "\x08\x0b\x0c\x7f\u2028\x85"])
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    lines = copy_lines([("a", "b"), (text, None), ("c", "d")]).split("\n")
    assert [copied_values(line) for line in lines[:-1]] == [["a", "b"], [text, None], ["c", "d"]]
