"""What a scheduler process does over and over in vain costs little, and misses nothing."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from scheduler.background.webhook_delivery import WebhookDelivery
from scheduler.cron.acceptors import Acceptors
from scheduler.cron.firing import ScheduleRunner
from scheduler.cron.windows import WindowKeeper
from scheduler.intake.addresses import pool
from storage.database.connection import Database
from storage.events.webhooks import Webhooks
from storage.jobs.jobs import Jobs
from storage.jobs.orphans import Orphans
from storage.objects.store import ObjectStore, open_objects
from storage.renders.purge import PurgeRows
from storage.renders.schedules import FiringOutcome
from storage.rules.states import Priority
from storage.settings import Settings
from tests.contract.firings import taken
from tests.contract.schedules import ByTurns, add, outcomes
from tests.servers import eventually

LOOKS: dict[str, Callable[[ByTurns, Jobs, Database, ObjectStore], object]] = {
    "the clock": lambda runner, *_: ScheduleRunner(runner.schedules, runner.firings).run_once(),
    "windows": lambda runner, *_: WindowKeeper(schedules=runner.schedules, intake=runner.intake).run_once(long=False),
    "firings": lambda runner, *_: runner.acceptors.look_out(),
    "leases": lambda _, farm, *__: farm.recover_lapsed(),
    "waiting models": lambda _, farm, *__: farm.best_waiting([f"model-{number}" for number in range(20)]),
    "jobs of a model": lambda _, farm, *__: farm.waiting_each("tiny", Priority, at_most=10),
    "orphans": lambda _, __, database, objects: Orphans(database, objects).remove_due(),
    "hidden renders": lambda _, __, database, ___: PurgeRows(database).marked(),
    "webhooks": lambda _, __, database, ___: WebhookDelivery(
        webhooks=Webhooks(database), connections=pool(allow_private=False), every_seconds=1
    ).run_once(),
}


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


@contextmanager
def transactions(database: Database) -> Iterator[Counter[str]]:
    """Count the transactions that begin, by the name of the thread."""
    begun: Counter[str] = Counter()

    def count(_: object) -> None:
        begun[threading.current_thread().name] += 1

    event.listen(database.engine, "begin", count)
    try:
        yield begun
    finally:
        event.remove(database.engine, "begin", count)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_a_look_in_vain_is_one_transaction(
    look: Callable[..., object], runner: ByTurns, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    with transactions(database) as begun:
        look(runner, farm, database, objects)
    assert begun.total() == 1


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_looking_for_leases_waits_for_nobody_who_writes(farm: Jobs, database: Database) -> None:
    other = Database(database.url)
    with other.write():
        assert farm.recover_lapsed() == 0
    other.close()


def test_one_thread_looks_for_all_that_accept_and_they_accept_what_nobody_called_them_for(
    runner: ByTurns, database: Database
) -> None:
    acceptors = Acceptors(runner.acceptance, renew_seconds=0.02, every_seconds=0.02)
    with transactions(database) as begun:
        acceptors.start()
        eventually(lambda: begun["firings"] > 20, "the one that looks has looked often")
        # Once each at their start; nothing is in hand whose lease had to be renewed.
        assert {name for name, number in begun.items() if number > 1} == {"firings"}
        assert begun["firings' leases"] == 0
    schedule = add(runner)
    taken(runner, schedule)  # as another process would have: nobody calls
    eventually(lambda: outcomes(runner, schedule) == [FiringOutcome.FIRED], "it is accepted")
    acceptors.close()
    names = {f"accepts-{kind}" for kind in ("short-0", "short-1", "long-2", "long-3")}
    eventually(lambda: not names & {thread.name for thread in threading.enumerate()}, "its threads have ended")
