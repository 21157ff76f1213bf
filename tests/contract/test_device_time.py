"""What devices did and for whom, and how far they are, on each database."""

from dataclasses import replace

import pytest
from sqlalchemy import select, update

from storage.database.connection import Database
from storage.database.tables import batches, workers
from storage.fleet.idleness import idle_shares
from storage.fleet.steps import Steps, steps_of_workers
from storage.fleet.workers import JobProgress, NewWorker, Workers
from storage.jobs.jobs import Jobs
from storage.renders.batch_views import mates
from storage.renders.device_time import DeviceTime, device_time
from storage.renders.views import Views
from tests.contract.renders import claim, complete, pictures, published, rendered, submit

HOUR = 3600.0


def announce(database: Database, name: str, *, ago: float = 0.0) -> None:
    Workers(database).announce(
        NewWorker(name=name, host="h", device="cpu:0", device_name="cpu", pid=1, models=["tiny"])
    )
    with database.write() as connection:
        of_it = update(workers).where(workers.c.name == name)
        connection.execute(of_it.values(started_at=workers.c.started_at - ago))


def test_idle_is_the_time_in_which_no_batch_was_rendered(farm: Jobs, database: Database) -> None:
    announce(database, "w1", ago=10 * HOUR)
    announce(database, "w2", ago=1000)
    announce(database, "new")
    submit(farm, pictures(9))
    for number in range(3):
        worker = "w2" if number == 2 else "w1"
        found = claim(farm, limit=3, worker=worker)
        batch = replace(rendered(found, worker=worker), render_seconds=150.0)
        farm.complete(batch, published(*found.jobs))
    shares = idle_shares(database, within_seconds=600)
    assert shares == {
        "w1": pytest.approx(0.5, abs=0.05),
        "w2": pytest.approx(0.75, abs=0.05),
        "new": pytest.approx(1.0),
    }
    # What was recorded before is not of that time.
    with database.write() as connection:
        connection.execute(update(batches).values(finished_at=batches.c.finished_at - 700))
    assert idle_shares(database, within_seconds=600)["w1"] == 1.0
    # Of a worker that has started since, no batch of its predecessor's.
    announce(database, "w2")
    assert idle_shares(database, within_seconds=HOUR)["w2"] == 1.0


def test_steps_are_those_of_pictures_that_a_worker_still_has(farm: Jobs, database: Database) -> None:
    crew = Workers(database)
    announce(database, "w1")
    announce(database, "w2")
    submit(farm, pictures(4), watched=True)
    first, second = claim(farm, limit=2), claim(farm, limit=2, worker="w2")
    crew.progress(name="w1", jobs=[JobProgress(job.id, 3 + n, 8) for n, job in enumerate(first.jobs)])
    # It had them once.
    crew.progress(name="w2", jobs=[JobProgress(first.jobs[0].id, 8, 8)])
    assert steps_of_workers(database) == {"w1": Steps(pictures=2, done=7, of=16)}
    complete(farm, first)
    assert steps_of_workers(database) == {}
    complete(farm, second)


def test_device_time_is_shared_out_among_the_owners_of_a_batch(farm: Jobs, database: Database) -> None:
    ours, theirs = submit(farm, pictures(3)), submit(farm, pictures(1), owner="ben")
    complete(farm, claim(farm, limit=4))
    submit(farm, pictures(5), owner="ben")
    # A batch of these tests takes a second and a half.
    assert device_time(database, within_seconds=HOUR).owners == [
        DeviceTime(owner="ann", pictures=3, seconds=1.125),
        DeviceTime(owner="ben", pictures=1, seconds=0.375),
    ]
    [bens] = device_time(database, within_seconds=HOUR, owner="ben").owners
    assert (bens.owner, bens.pictures) == ("ben", 1)
    with database.write() as connection:
        connection.execute(update(batches).values(finished_at=batches.c.finished_at - 2 * HOUR))
    assert device_time(database, within_seconds=HOUR).owners == []
    views = Views(database)
    [batch] = views.batches(job.batch_id for job in views.jobs(ours) if job.batch_id).values()
    everybodys = [f"{ours}-00000{n}" for n in range(3)] + [f"{theirs}-000000"]
    assert sorted(mates(database, batch, owner=None)) == sorted(everybodys)
    assert mates(database, batch, owner="ben") == [f"{theirs}-000000"]


def test_device_time_says_since_when_batches_were_read(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(6))
    for _ in range(3):
        complete(farm, claim(farm, limit=2))
    assert device_time(database, within_seconds=HOUR, most=3).read_since is None
    found = device_time(database, within_seconds=HOUR, most=2)
    with database.read() as connection:
        times = sorted(connection.execute(select(batches.c.finished_at)).scalars())
    assert found.read_since == times[1]
    assert found.owners[0].pictures == 4
