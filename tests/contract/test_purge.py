"""Deleting old renders: what goes, what stays, and what an interrupted purge leaves to the next one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event

import pytest
from PIL import Image
from sqlalchemy import func, insert, select, text, update

from scheduler.results.purge import Purge
from storage.database.connection import Database, database_now
from storage.database.export_tables import exports
from storage.database.tables import batches, events, faults, jobs, metadata, orphans, renders
from storage.database.webhook_tables import deliveries
from storage.errors import NotFound
from storage.jobs.jobs import Jobs
from storage.jobs.values import Idempotency, Submission
from storage.objects.store import ObjectStore, open_objects
from storage.renders.exports import Exports
from storage.renders.measures import Measures
from storage.renders.purge import PurgeRows, _marked
from storage.renders.views import Views
from storage.rules.states import Priority
from storage.settings import Settings
from tests.contract.datasets import make, render_of, wanted
from tests.contract.renders import at_once, claim, complete, fail, rendered, rows, submit
from tests.forks import Starter
from worker.serving.leases import Leases
from worker.serving.outages import OutageRetry
from worker.serving.patient import PatientObjects
from worker.serving.publish import Publisher
from worker.serving.watchdog import Watchdog

DAY = 86_400.0


def aged(database: Database, render_id: str, seconds: float) -> None:
    """As if a render had been finished so long ago."""
    with database.write() as connection:
        connection.execute(
            update(renders).where(renders.c.id == render_id).values(finished_at=database_now() - seconds)
        )


def purge(database: Database, objects: ObjectStore, *, seconds: float = 30 * DAY, **which: object) -> list[str]:
    purging = PurgeRows(database)
    old = [one for one in purging.old(seconds=seconds, **which) if not one.needed]  # type: ignore[arg-type]
    return Purge(purging=purging, objects=objects).run(old, lambda _: None)


def order(farm: Jobs) -> str:
    """The same request under the same name, each time."""
    once = Idempotency(name="order 7", request_hash="as ever")
    return farm.submit(wanted(1), Submission(owner="ann", priority=Priority.NORMAL, once=once), quanta={"tiny": 8})


def retry(farm: Jobs, render_id: str) -> int:
    return farm.retry(render_id, quanta={"tiny": 8})


def unless_deleted(action: Callable[[], object]) -> bool:
    """Whether it could still be done."""
    try:
        action()
    except NotFound:
        return False
    return True


def counted(database: Database, table: object) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def test_an_old_render_goes_with_all_that_is_its_own(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    render_id = render_of(farm, objects, 20, failing={3})
    Exports(database).finish(Exports(database).begin(render_id=render_id, format="parquet", target="/a", options={}))
    with database.write() as connection:
        connection.execute(insert(events).values(render_id=render_id, seq=1, at=0, kind="job.done", index=0, data="{}"))
    aged(database, render_id, 31 * DAY)

    assert purge(database, objects) == [render_id]

    assert list(objects.list()) == []
    for table in metadata.tables.values():
        assert counted(database, table) == 0, table.name


def test_what_is_not_so_old_or_not_finished_stays(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    young, old = render_of(farm, objects, 3), render_of(farm, objects, 3)
    running = submit(farm, wanted(3))
    aged(database, young, 30 * DAY - 5)
    aged(database, old, 30 * DAY + 5)

    assert purge(database, objects) == [old]

    assert {key.split("/")[1] for key in objects.list()} == {young}
    assert [len(rows(database, render_id)) for render_id in (young, old, running)] == [3, 0, 3]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_rule_may_name_states_and_an_owner(farm: Jobs, database: Database, local: Settings) -> None:
    objects = open_objects(local)
    done, failed = render_of(farm, objects, 2), render_of(farm, objects, 2, failing={0})
    bobs = submit(farm, wanted(2), owner="bob")
    make(farm, objects, 2)
    for render_id in (done, failed, bobs):
        aged(database, render_id, 31 * DAY)

    assert [one.render_id for one in PurgeRows(database).old(seconds=0, owner="bob")] == [bobs]
    assert purge(database, objects, states=["failed"]) == [failed]
    assert purge(database, objects, owner="ann") == [done]
    assert [usage.owner for usage in Measures(database).usage()] == ["bob"]


def test_an_unfinished_export_keeps_its_pictures(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    render_id = render_of(farm, objects, 3)
    aged(database, render_id, 31 * DAY)
    export_id = Exports(database).begin(render_id=render_id, format="parquet", target="/a", options={})

    assert [one.needed for one in PurgeRows(database).old(seconds=30 * DAY)] == [True]
    assert purge(database, objects) == []
    assert len(list(objects.list())) == 3

    Exports(database).finish(export_id)
    assert purge(database, objects) == [render_id]


def test_a_render_that_is_being_deleted_is_seen_no_more(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    render_id = render_of(farm, objects, 3, failing={1})
    [old] = PurgeRows(database).old(seconds=0)
    assert PurgeRows(database).mark(old) is True
    assert PurgeRows(database).mark(old) is False

    views = Views(database)
    with pytest.raises(NotFound):
        views.render(render_id)
    with pytest.raises(NotFound):
        views.job(f"{render_id}-000000")
    assert views.renders() == []
    with pytest.raises(NotFound, match="is being deleted"):
        farm.retry(render_id, quanta={"tiny": 8})
    with pytest.raises(NotFound, match="is being deleted"):
        Exports(database).begin(render_id=render_id, format="parquet", target="/a", options={})
    assert [row.state for row in rows(database, render_id)] == ["done", "failed", "done"]


def test_a_render_that_was_asked_for_again_is_not_deleted(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    render_id = render_of(farm, objects, 3, failing={1})
    aged(database, render_id, 31 * DAY)
    [old] = PurgeRows(database).old(seconds=30 * DAY)
    farm.retry(render_id, quanta={"tiny": 8})

    assert Purge(purging=PurgeRows(database), objects=objects).run([old], lambda _: None) == []

    make(farm, objects, 1)
    assert Views(database).render(render_id).done == 3
    # Finished again, and not the old one that somebody looked at.
    assert PurgeRows(database).mark(old) is False


def test_a_retry_at_the_same_moment_keeps_the_render_or_comes_too_late(farm: Jobs, database: Database) -> None:
    for _ in range(5):
        render_id = submit(farm, wanted(1))
        fail(farm, claim(farm).jobs[0], "the picture is black")
        [old] = [one for one in PurgeRows(database).old(seconds=0) if one.render_id == render_id]

        marked, retried = at_once(
            partial(PurgeRows(database).mark, old), partial(unless_deleted, partial(retry, farm, render_id))
        )

        assert marked is not retried
        assert [row.state for row in rows(database, render_id)] == ["queued" if retried else "failed"]
        farm.cancel(render_id)


def test_an_export_that_begins_at_the_same_moment_keeps_the_render_or_is_refused(
    farm: Jobs, database: Database
) -> None:
    for _ in range(5):
        render_id = submit(farm, wanted(1))
        farm.cancel(render_id)
        [old] = [one for one in PurgeRows(database).old(seconds=0) if one.render_id == render_id]
        begin = partial(Exports(database).begin, render_id=render_id, format="parquet", target="/a", options={})

        marked, begun = at_once(partial(PurgeRows(database).mark, old), partial(unless_deleted, begin))

        assert marked is not begun


def test_a_request_of_the_same_name_is_a_new_one_once_the_first_is_deleted(farm: Jobs, database: Database) -> None:
    first = order(farm)
    farm.cancel(first)
    [old] = PurgeRows(database).old(seconds=0)
    PurgeRows(database).mark(old)

    second = order(farm)

    assert second != first
    assert order(farm) == second


def test_a_picture_that_a_worker_stores_after_its_render_is_deleted_is_removed(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = submit(farm, wanted(2))
    found = claim(farm)
    farm.cancel(render_id)
    assert purge(database, objects, seconds=0) == [render_id]

    leases = Leases(farm, renew_seconds=10, watchdog=Watchdog(stall_seconds=60), on_stall=lambda _: None)
    publisher = Publisher(jobs=farm, objects=PatientObjects(objects, OutageRetry(Event())), leases=leases)
    publisher.publish(rendered(found), found.jobs, [Image.new("RGB", (8, 8))] * 2)
    publisher.drain()

    assert list(objects.list()) == []


def test_what_was_told_of_a_large_render_goes_a_part_at_a_time(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = render_of(farm, objects, 1)
    with database.write() as connection:
        row = {"render_id": render_id, "at": 0, "kind": "job.done", "index": 0, "data": "{}"}
        connection.execute(insert(events), [{**row, "seq": seq} for seq in range(1200)])
    [old] = PurgeRows(database).old(seconds=0)
    PurgeRows(database).mark(old)

    parts = [*iter(partial(PurgeRows(database).delete_logs, render_id), 0)]

    assert (sum(parts), max(parts)) == (1200, 500)
    assert purge(database, objects) == [render_id]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_batches_are_kept_as_long_as_a_picture_of_theirs(farm: Jobs, database: Database, local: Settings) -> None:
    objects = open_objects(local)
    one, two = submit(farm, wanted(4)[:2]), submit(farm, wanted(2))
    found = claim(farm, limit=4)  # both renders together
    complete(farm, found)
    aged(database, one, 31 * DAY)

    assert purge(database, objects) == [one]

    assert counted(database, batches) == 1
    left = list(Views(database).jobs(two))
    batch = Views(database).batch(str(left[0].batch_id))
    with pytest.raises(NotFound, match="2 of the 4 pictures that were rendered together have been deleted"):
        Views(database).specs(batch)


#: Forks a purge for each statement, the n-th of which kills it; one that outlives its last ends the round. Prints how
#: many were killed.
_ROUND = """
import os, signal, sys
from sqlalchemy import event
from storage.jobs.values import Idempotency, Submission
from storage.database.connection import Database
from storage.objects.store import open_objects
from storage.settings import read_settings
from tests.contract.test_purge import purge

killed = 0
for n in range(1, 300):
    pid = os.fork()
    if pid == 0:
        settings = read_settings()
        database, left = Database(settings.database), [n]
        def die(*_):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        for name in ("before_cursor_execute", "commit"):
            event.listen(database.engine, name, die)
        purge(database, open_objects(settings))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    killed += 1
print(killed)
"""


@pytest.mark.slow
def test_a_purge_that_is_killed_again_and_again_leaves_nothing_of_what_is_old_and_all_of_the_rest(
    farm: Jobs, database: Database, local: Settings, starter: Starter, tmp_path: Path
) -> None:
    objects = open_objects(local)
    old = [render_of(farm, objects, 30, failing={4}) for _ in range(3)]
    young = render_of(farm, objects, 8)
    for render_id in old:
        aged(database, render_id, 31 * DAY)

    settings = {"FARM_DATABASE_URL": database.url, "FARM_OBJECTS_URL": local.objects}
    told = starter.ran(["-c", _ROUND], folder=tmp_path, env=settings)

    assert told.returncode == 0, told.stderr
    assert int(told.stdout) >= 15, told.stdout
    assert {key.split("/")[1] for key in objects.list()} == {young}
    with database.read() as connection:
        assert [*connection.execute(select(renders.c.id)).scalars()] == [young]
        assert set(connection.execute(select(jobs.c.render_id)).scalars()) == {young}
    assert [counted(database, table) for table in (faults, orphans, deliveries, exports)] == [0, 0, 0, 0]
    assert counted(database, batches) == 1
    assert Path(local.objects).exists()


def test_hidden_renders_are_looked_for_without_reading_the_others(database: Database) -> None:
    statement = _marked()
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            # Of so few rows, it would read all.
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        explain = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        written = statement.compile(connection.engine, compile_kwargs={"literal_binds": True})
        plan = str(connection.execute(text(f"{explain} {written}")).all())
    assert "ix_renders_purging" in plan
