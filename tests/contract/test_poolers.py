"""Behind a pooler, each transaction gets another connection of the server: nothing that a session holds can be used."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Connection, delete, select, text

from storage.database import schema
from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.errors import DatabaseProblem
from storage.jobs import staging
from storage.jobs.jobs import Jobs
from storage.jobs.submission import Accept, accept_stream
from storage.jobs.values import NewJob, Submission
from storage.rules.states import Priority
from storage.spec.picture import Spec
from tests.contract.renders import assert_rows_agree, at_once, claim, complete, submit
from tests.contract.renders import pictures as pictures_of
from tests.poolers import PoolMode, rotating_pooler
from tests.servers import PostgresServer

#: More than one statement's worth.
N = 2 * staging.CHUNK + 5


@contextmanager
def behind_a_pooler(server: PostgresServer, url: str, mode: PoolMode) -> Iterator[Database]:
    with (
        rotating_pooler(server.socket, urlsplit(url).path[1:], mode=mode) as port,
        closing(Database(server.tcp_url(url, port))) as database,
    ):
        yield database


@pytest.fixture
def pooled(postgres: str, postgres_server: PostgresServer) -> Iterator[Database]:
    with behind_a_pooler(postgres_server, postgres, "transaction") as database:
        yield database
        assert_rows_agree(database)


def whose(database: Database) -> Counter[tuple[str, str]]:
    """How many pictures of whom are in whose render."""
    rows = select(renders.c.owner, jobs.c.spec).join_from(renders, jobs)
    with database.read() as connection:
        return Counter((row.owner, Spec.model_validate_json(row.spec).prompt) for row in connection.execute(rows))


# -- submissions -----------------------------------------------------------------------------------------------


def test_a_render_has_its_own_pictures_alone_though_another_is_submitted_while_it_is_read(pooled: Database) -> None:
    farm = Jobs(pooled)

    def anns() -> Iterator[Spec]:
        for number, one in enumerate(pictures_of(N, prompt="ann")):
            if number == N - 10:
                submit(farm, pictures_of(N, prompt="bob"), owner="bob")
            yield one

    submit(farm, anns(), owner="ann")
    assert whose(pooled) == {("ann", "ann"): N, ("bob", "bob"): N}


def test_renders_submitted_at_once_have_their_own_pictures_alone(pooled: Database) -> None:
    farm = Jobs(pooled)
    owners = ("ann", "bob", "cem", "dee")
    at_once(*[partial(submit, farm, pictures_of(N, prompt=owner), owner=owner) for owner in owners])
    assert whose(pooled) == {(owner, owner): N for owner in owners}


def test_a_render_is_refused_whose_staged_rows_are_not_those_that_were_submitted(database: Database) -> None:
    def lose_one(connection: Connection, accept: Accept) -> str:
        connection.execute(delete(staging.staged).where(staging.staged.c.index == 3))
        return accept()

    new_jobs = (NewJob(spec=spec) for spec in pictures_of(N))
    submission = Submission(owner="ann", priority=Priority.NORMAL)
    with pytest.raises(DatabaseProblem, match=f"{N - 1} rows were staged where {N} pictures were submitted"):
        accept_stream(database, new_jobs, submission, {"tiny": 8}, within=lose_one)
    with database.read() as connection:
        assert connection.execute(select(renders.c.id)).all() == []
        assert connection.execute(select(jobs.c.id).limit(1)).all() == []


# -- sessions --------------------------------------------------------------------------------------------------


def test_statements_that_are_often_repeated_are_not_prepared_behind_a_pooler(pooled: Database) -> None:
    farm = Jobs(pooled)
    submit(farm, pictures_of(20))
    for _ in range(20):
        complete(farm, claim(farm, limit=1))
    with pooled.read() as connection:
        assert connection.execute(select(renders.c.done)).scalar_one() == 20


def settings(database: Database) -> list[str]:
    with database.read() as connection:
        names = ("lock_timeout", "idle_in_transaction_session_timeout")
        return [str(connection.execute(text(f"SHOW {name}")).scalar_one()) for name in names]


def test_every_transaction_has_the_farms_settings(postgres: str, pooled: Database) -> None:
    with closing(Database(postgres)) as direct:
        for database in (direct, pooled, direct, pooled, pooled):
            assert settings(database) == ["10s", "1min"]
    # Also where the first statement is read page by page.
    with pooled.read() as connection:
        paged = connection.execution_options(yield_per=10).execute(text("SELECT current_setting('lock_timeout')"))
        assert paged.scalars().all() == ["10s"]


def test_the_functions_have_the_farms_patience_with_locks_wherever_they_are_called(pooled: Database) -> None:
    of_functions = text("SELECT proname, proconfig FROM pg_proc WHERE proname IN ('claim_batch', 'complete_batch')")
    with pooled.read() as connection:
        found = {row.proname: "lock_timeout=10s" in row.proconfig for row in connection.execute(of_functions)}
    assert found == {"claim_batch": True, "complete_batch": True}


def test_others_who_share_the_servers_connections_keep_their_own_settings(pooled: Database) -> None:
    assert settings(pooled) == ["10s", "1min"]
    # Autocommit begins no transaction of the farm's.
    with pooled.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        raw = connection.connection.cursor()
        assert {raw.execute("SHOW lock_timeout").fetchone()[0] for _ in range(4)} == {"0"}
        connection.rollback()


CHECKS: dict[str, Callable[[Database], object]] = {"at start": schema.check, "upgrading": schema.upgrade}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_pooler_that_tears_transactions_apart_is_refused(
    check: Callable[[Database], object], postgres: str, postgres_server: PostgresServer
) -> None:
    with (
        behind_a_pooler(postgres_server, postgres, "statement") as database,
        pytest.raises(DatabaseProblem, match="set pool_mode = transaction"),
    ):
        check(database)
