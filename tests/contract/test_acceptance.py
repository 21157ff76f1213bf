"""Accepting a render together with whatever belongs into the same transaction: few jobs, and staged ones."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, func, insert, select, update

from storage.database.connection import Database
from storage.database.schedule_tables import schedules
from storage.database.tables import jobs, renders
from storage.errors import BadSpecification, InvalidInput
from storage.jobs.staging import CHUNK, row_of
from storage.jobs.submission import Accept, accept_stream
from storage.jobs.values import Idempotency, NewJob, Submission
from storage.rules.states import Priority
from storage.spec.kinds import SpecKind
from tests.contract.renders import pictures

SIZES = pytest.mark.parametrize("n", [2, CHUNK + 5], ids=["few", "staged"])
ANN = Submission(owner="ann", priority=Priority.NORMAL)


def new_jobs(n: int) -> Iterator[NewJob]:
    [spec] = pictures(1)
    return (NewJob(spec=spec) for _ in range(n))


def counts(database: Database) -> tuple[int, int]:
    """How many renders and jobs there are."""
    with database.read() as connection:
        found = [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (renders, jobs)]
    return found[0], found[1]


@SIZES
def test_what_belongs_to_a_render_is_committed_with_it_and_its_result_returned(database: Database, n: int) -> None:
    def watch(connection: Connection, accept: Accept) -> tuple[str, int]:
        render_id = accept()
        marked = connection.execute(update(renders).where(renders.c.id == render_id).values(watched=True))
        return render_id, marked.rowcount

    render_id, marked = accept_stream(database, new_jobs(n), ANN, {"tiny": 8}, within=watch)

    with database.read() as connection:
        row = connection.execute(select(renders)).one()
    assert (row.id, row.total, row.watched, marked) == (render_id, n, True, 1)
    assert counts(database) == (1, n)


@SIZES
def test_what_goes_wrong_beside_a_render_undoes_it_too(database: Database, n: int) -> None:
    def fall_over(_: Connection, accept: Accept) -> str:
        accept()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        accept_stream(database, new_jobs(n), ANN, {"tiny": 8}, within=fall_over)
    assert counts(database) == (0, 0)


@SIZES
def test_whoever_decides_not_to_accept_leaves_nothing_behind(database: Database, n: int) -> None:
    assert accept_stream(database, new_jobs(n), ANN, {"tiny": 8}, within=lambda *_: "no") == "no"
    assert counts(database) == (0, 0)


@SIZES
def test_a_repeated_request_is_told_of_the_first_render_and_what_belongs_to_it_runs_again(
    database: Database, n: int
) -> None:
    submission = Submission(
        owner="ann", priority=Priority.NORMAL, once=Idempotency(name="tonight", request_hash="h" * 64)
    )
    seen: list[str] = []

    def note(connection: Connection, accept: Accept) -> str:
        seen.append(accept())
        row = {"id": f"s{len(seen)}", "owner": "ann", "name": f"n{len(seen)}", "cron": "@daily", "timezone": "UTC"}
        more = {"overlap": "skip", "catch_up": "none", "seeds": "fresh", "order": "{}", "created_at": 0}
        connection.execute(insert(schedules).values(**row, **more, decided_to=0))
        return seen[-1]

    for _ in range(2):
        accept_stream(database, new_jobs(n), submission, {"tiny": 8}, within=note)

    assert seen[0] == seen[1]
    assert counts(database) == (1, n)
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(schedules)).scalar_one() == 2


#: What COPY would read as something else, were it not written so that it does not.
_HARD = ("\\N", "\\", "\\.", "a\tb", "a\nb", "a\r\nb", "\\t\\n", "\x08\x0b\x7f\u2028", "é😀", '"', "'", "%s", "\ufeff")


@SIZES
def test_texts_are_stored_as_they_were_given(database: Database, n: int) -> None:
    [spec] = pictures(1)
    kind = SpecKind(spec)

    def wanted() -> Iterator[NewJob]:
        for number in range(n):
            hard = _HARD[number % len(_HARD)]
            one = kind.spec(f"{hard} {number}", number)
            labels = {hard: [hard, number]} if number % 3 else None
            name = f"{hard}{number}" if number % 2 else None
            yield NewJob(spec=one, custom_id=name, labels=labels, kind=kind if number % 5 else None)

    accept_stream(database, wanted(), ANN, {"tiny": 8}, within=lambda _, accept: accept())
    names = [*row_of(NewJob(spec=spec))]
    with database.read() as connection:
        stored = connection.execute(select(*(jobs.c[name] for name in names)).order_by(jobs.c.index))
        assert [row._asdict() for row in stored] == [row_of(one._replace(kind=None)) for one in wanted()]


@pytest.mark.parametrize("name", ["\\N", "a\tb\\\nc"])
@pytest.mark.parametrize("second", [1, CHUNK + 3], ids=["in one chunk", "in another chunk"])
def test_a_name_that_is_given_twice_is_refused_with_both_pictures(database: Database, name: str, second: int) -> None:
    [spec] = pictures(1)
    named = (NewJob(spec=spec, custom_id=name if number in (0, second) else str(number)) for number in range(CHUNK + 5))
    said = re.escape(f"duplicate custom_id {name!r}, for pictures 1 and {second + 1}")
    with pytest.raises(BadSpecification, match=said):
        accept_stream(database, named, ANN, {"tiny": 8}, within=lambda _, accept: accept())
    assert counts(database) == (0, 0)


@SIZES
@pytest.mark.parametrize("database_kind", ["postgresql"])  # SQLite stores it
def test_a_text_that_postgresql_does_not_hold_is_refused(database: Database, n: int) -> None:
    [spec] = pictures(1)
    named = (NewJob(spec=spec, custom_id="a\0b" if number == n - 1 else None) for number in range(n))
    with pytest.raises(InvalidInput, match=r"NUL \(U\+0000\)"):
        accept_stream(database, named, ANN, {"tiny": 8}, within=lambda _, accept: accept())
    assert counts(database) == (0, 0)
