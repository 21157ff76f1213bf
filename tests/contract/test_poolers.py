"""Behind a pooler: each transaction gets another connection of the server, and nothing that a session holds can be used."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Connection, event, func, insert, select, text

from storage.database import schema
from storage.database.connection import Database
from storage.database.tables import jobs, renders
from storage.errors import DatabaseProblem
from storage.jobs import staging
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission
from storage.rules.states import Priority
from storage.spec.picture import Spec
from tests.contract.renders import at_once, spec
from tests.poolers import PoolMode, rotating_pooler
from tests.servers import PostgresServer

N = 2 * staging.CHUNK + 5
#: The database behind a pooler of this mode.
Pooled = Callable[[PoolMode], Database]


@pytest.fixture
def pooled(postgres: str, postgres_server: PostgresServer) -> Iterator[Database]:
    with (
        rotating_pooler(postgres_server.socket, urlsplit(postgres).path[1:]) as port,
        closing(Database(postgres_server.tcp_url(postgres, port))) as database,
    ):
        yield database


def submit(database: Database, owner: str, seeds: Iterator[int] | range) -> str:
    specs: Iterator[Spec] = (spec(prompt=owner, seed=seed) for seed in seeds)
    submission = Submission(owner=owner, priority=Priority.NORMAL)
    return Jobs(database).submit(specs, submission, quanta={"tiny": 8})


def pictures(database: Database) -> set[tuple[str, str, int]]:
    """Whose pictures are in whose render, and how many different ones."""
    prompt = func.substr(jobs.c.spec, func.strpos(jobs.c.spec, '"prompt":"') + 10, 3)
    counted = select(renders.c.owner, prompt, func.count(jobs.c.seed.distinct())).join_from(renders, jobs)
    with database.read() as connection:
        return {(row[0], row[1], row[2]) for row in connection.execute(counted.group_by(renders.c.owner, prompt))}
