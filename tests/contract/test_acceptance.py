"""Accepting a render together with whatever belongs into the same transaction: few jobs, and staged ones."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, func, insert, select, update

from storage.database.connection import Database
from storage.database.schedule_tables import schedules
from storage.database.tables import jobs, renders
from storage.jobs.staging import CHUNK
from storage.jobs.submission import Accept, accept_stream
from storage.jobs.values import Idempotency, NewJob, Submission
from storage.rules.states import Priority
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
