"""Databases in which jobs wait: each filled once, and copied for every round."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from benchmarks.claimants import MODEL
from benchmarks.servers import Servers
from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission
from storage.rules.states import Priority
from storage.spec.picture import Spec
from tests.servers import PostgresServer

SPEC = Spec(
    model=MODEL,
    prompt="a red star",
    negative_prompt="",
    width=512,
    height=512,
    num_inference_steps=30,
    guidance_scale=7.5,
    sampler=None,
    seed=0,
)
_OWNERS = ("ann", "ben", "cid")
_DEFERRED_AT_ONCE = 1_000


@contextmanager
def farm_queue(server: PostgresServer, waiting: int, *, model: str = MODEL) -> Iterator[str]:
    """The name of a database in which so many jobs of three owners wait."""
    name = server.create()
    database = Database(server.url(name))
    upgrade(database)
    jobs = Jobs(database)
    for number, owner in enumerate(_OWNERS):
        mine = waiting // len(_OWNERS) + (number < waiting % len(_OWNERS))
        specs = (SPEC.model_copy(update={"model": model, "seed": seed}) for seed in range(mine))
        if mine:
            jobs.submit(specs, Submission(owner=owner, priority=Priority.NORMAL), quanta={model: 8})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    database.close()
    yield name
    server.drop(name)


@contextmanager
def procrastinate_queue(server: PostgresServer, waiting: int) -> Iterator[str]:
    """The name of a database with procrastinate's tables, in which so many of its jobs wait."""
    name = server.create()
    asyncio.run(_deferred(plain(server.url(name)), waiting))
    yield name
    server.drop(name)


@contextmanager
def copy_of(server: PostgresServer, template: str) -> Iterator[str]:
    """The address of a fresh copy of a database, as SQLAlchemy takes it."""
    name = server.create(template=template)
    try:
        yield server.url(name)
    finally:
        server.drop(name)


def farm_template(servers: Servers, waiting: int, *, model: str = MODEL) -> str:
    """The name of the scenario's own database with so many waiting jobs."""
    server = servers.postgresql()
    return servers.keep(f"farm, {waiting}", lambda: farm_queue(server, waiting, model=model))


def procrastinate_template(servers: Servers, waiting: int) -> str:
    """The same of procrastinate's."""
    server = servers.postgresql()
    return servers.keep(f"procrastinate, {waiting}", lambda: procrastinate_queue(server, waiting))


def plain(url: str) -> str:
    """The address as PostgreSQL's own library takes it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


async def defer(url: str, jobs: int) -> float:
    """Store so many jobs of procrastinate in bulk, and return how many seconds that took."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=1))

    @app.task(name="render")  # type: ignore[untyped-decorator]
    def render(prompt: str, seed: int) -> None:
        raise AssertionError(f"nobody runs {prompt}, {seed} here")

    async with app.open_async():
        started = time.perf_counter()
        for first in range(0, jobs, _DEFERRED_AT_ONCE):
            seeds = range(first, min(jobs, first + _DEFERRED_AT_ONCE))
            rows = ({"prompt": f"a red star, number {seed}", "seed": seed} for seed in seeds)
            await render.batch_defer_async(*rows)
        return time.perf_counter() - started


async def _deferred(url: str, waiting: int) -> None:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=1))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    await defer(url, waiting)
    async with app.open_async():
        await app.connector.execute_query_async("ANALYZE")
