"""What PostgreSQL is asked for when a render's pictures are narrowed: what takes long is asked for once, or last."""

from sqlalchemy.dialects import postgresql

from storage.renders.filters import JobFilter
from storage.renders.views import _jobs_page


def asked(which: JobFilter) -> str:
    statement = which.narrow(_jobs_page("gallery", None, -1, 60), render_id="gallery", dialect="postgresql")
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def test_duplicates_are_looked_for_once_whatever_else_is_asked_for() -> None:
    # An array that depends on no row of the statement around it is made before any of them is looked at.
    statement = asked(JobFilter(duplicates="pixels", prompt="star"))
    assert "jobs.index = any(array((SELECT" in statement
    assert "jobs." not in statement.partition("any(array(")[2].partition(")))")[0]


def test_labels_are_read_only_where_their_text_is_there() -> None:
    assert "jobs.labels LIKE '%%' || 'train' || '%%'" in asked(JobFilter(labels={"split": "train"}))
    # JSON may write these otherwise than they are compared.
    for value in ("0.50", "4", '{"a": 1}', "é", "a\\b", 'a"b', ""):
        # Before the CASE, which keeps NUL out, nothing is looked for in the text.
        assert "LIKE" not in asked(JobFilter(labels={"split": value})).partition("CASE")[0], value


def test_prompts_of_ascii_are_compared_as_such() -> None:
    assert 'COLLATE "C"' in asked(JobFilter(prompt="star"))
    assert 'COLLATE "C"' not in asked(JobFilter(prompt="étoile"))
