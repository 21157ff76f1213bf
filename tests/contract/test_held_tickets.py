"""Topping up tickets while workers hold some, on a real Redis and both databases: dead ones hold none."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import update

from scheduler.intake.tickets import top_up
from storage.broker.queues import queue_name
from storage.broker.tickets import Tickets
from storage.database.connection import Database
from storage.database.tables import workers
from storage.fleet.workers import SILENT_SECONDS, NewWorker, Workers
from storage.jobs.jobs import Jobs
from storage.rules.states import Priority
from storage.settings import Settings
from tests.contract.renders import pictures, submit
from tests.contract.schedules import REGISTRY

MODEL = REGISTRY["tiny"]
WINDOW = 30
SHARE = WINDOW // len(Priority)

#: Takes so many tickets and acknowledges none.
_HOLDER = """
import sys, time
from storage.broker.celery_app import make_celery
from storage.settings import Settings
url, queue, n = sys.argv[1:]
app = make_celery(Settings(broker_url=url))
with app.connection_for_read() as connection, connection.SimpleQueue(queue) as tickets:
    for _ in range(int(n)):
        tickets.get(timeout=60)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def tickets(redis_url: str) -> Tickets:
    return Tickets(Settings(broker_url=redis_url, ticket_window=WINDOW))


@pytest.fixture
def crew(database: Database) -> Workers:
    return Workers(database)


@pytest.fixture
def holder(redis_url: str, tickets: Tickets) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds as many tickets as there may be."""
    tickets.publish("tiny", Priority.NORMAL, WINDOW)
    command = [sys.executable, "-c", _HOLDER, redis_url, queue_name("tiny"), str(WINDOW)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def announce(crew: Workers, n: int) -> None:
    for number in range(n):
        crew.announce(NewWorker(name=f"w{number}", host="h", device="cpu", device_name="CPU", pid=1, models=["tiny"]))


def test_what_dead_workers_held_leaves_the_living_their_tickets_at_once(
    farm: Jobs, database: Database, tickets: Tickets, crew: Workers, holder: subprocess.Popen[bytes]
) -> None:
    announce(crew, WINDOW)
    submit(farm, pictures(SHARE * MODEL.batch))
    # As long as all of them are thought alive, they may put back what they hold.
    assert top_up(farm, tickets, MODEL) == 1
    holder.kill()
    holder.wait()
    with database.write() as connection:
        dead = workers.c.name != "w0"
        connection.execute(update(workers).where(dead).values(seen_at=workers.c.seen_at - SILENT_SECONDS - 1))
    assert tickets.in_hand() == WINDOW, "until Redis's visibility timeout"
    # All but what the one that lives may hold.
    share = (WINDOW - 1) // len(Priority)
    assert top_up(farm, tickets, MODEL) == share - 1
    assert tickets.queued("tiny") == {Priority.INTERACTIVE: 0, Priority.NORMAL: share, Priority.BULK: 0}


def test_with_nobody_alive_the_whole_window_is_filled(
    farm: Jobs, tickets: Tickets, holder: subprocess.Popen[bytes]
) -> None:
    submit(farm, pictures(WINDOW * MODEL.batch))
    holder.kill()
    holder.wait()
    assert top_up(farm, tickets, MODEL) == SHARE


def test_workers_that_were_heard_of_are_counted(database: Database, crew: Workers) -> None:
    assert crew.heard_of() == 0
    announce(crew, 3)
    with database.write() as connection:
        connection.execute(
            update(workers).where(workers.c.name == "w1").values(seen_at=workers.c.seen_at - SILENT_SECONDS - 1)
        )
    assert crew.heard_of() == 2
