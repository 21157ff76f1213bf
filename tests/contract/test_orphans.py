"""Pictures of jobs that ended without one are removed, whatever order things happened in, on both databases."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

import storage.jobs.jobs
from storage.database.connection import Database, database_now
from storage.database.tables import orphans
from storage.errors import ObjectStoreProblem
from storage.jobs.jobs import Jobs
from storage.jobs.orphans import Orphans
from storage.jobs.values import Claim
from storage.objects.folder import LocalObjects
from storage.objects.object_keys import picture_key
from storage.rules.states import State
from tests.contract.renders import at_once, claim, complete, died, pictures, states, submit
from tests.servers import eventually


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


@pytest.fixture
def remove_orphans(database: Database, objects: LocalObjects) -> Callable[[], list[str]]:
    """Removes what is due once every lease has run out; what is there then."""

    def removed() -> list[str]:
        with database.write() as connection:
            connection.execute(update(orphans).values(due_at=orphans.c.due_at - 31))
        while Orphans(database, objects).remove_due():
            pass
        with database.read() as connection:
            assert connection.execute(select(func.count()).select_from(orphans)).scalar() == 0
        return list(objects.list())

    return removed


def store(objects: LocalObjects, found: Claim) -> list[str]:
    return [objects.put(picture_key(job.render_id, job.index), b"a picture").key for job in found.jobs]


RemoveOrphans = Callable[[], list[str]]


def test_a_picture_stored_by_a_worker_that_died_is_removed_when_its_job_is_cancelled(
    farm: Jobs, objects: LocalObjects, remove_orphans: RemoveOrphans
) -> None:
    render_id = submit(farm, pictures(2))
    store(objects, claim(farm))
    died(farm, worker="w1")
    farm.cancel(render_id)
    assert remove_orphans() == []


def test_a_picture_stored_after_the_cancel_is_removed(
    farm: Jobs, objects: LocalObjects, remove_orphans: RemoveOrphans
) -> None:
    render_id = submit(farm, pictures(2))
    found = claim(farm)
    farm.cancel(render_id)
    assert remove_orphans() == []
    store(objects, found)
    assert set(complete(farm, found).values()) == {State.CANCELLED}
    assert remove_orphans() == []


def test_an_upload_under_way_at_the_cancel_gets_its_time(farm: Jobs, objects: LocalObjects, database: Database) -> None:
    render_id = submit(farm, pictures(1))
    keys = store(objects, claim(farm))
    farm.cancel(render_id)
    assert Orphans(database, objects).remove_due() == 0
    assert list(objects.list()) == keys


def test_a_picture_of_a_job_that_failed_in_the_end_is_removed(
    farm: Jobs, objects: LocalObjects, remove_orphans: RemoveOrphans
) -> None:
    render_id = submit(farm, pictures(1))
    for _ in range(3):
        store(objects, claim(farm))
        died(farm, worker="w1")
    assert remove_orphans() == []
    assert farm.retry(render_id, quanta={"tiny": 8}) == 1


def test_what_is_done_or_asked_for_again_is_kept(
    farm: Jobs, objects: LocalObjects, database: Database, remove_orphans: RemoveOrphans
) -> None:
    done = submit(farm, pictures(1))
    found = claim(farm)
    kept = store(objects, found)
    complete(farm, found)
    farm.cancel(done)
    again = submit(farm, pictures(1))
    for _ in range(3):
        found = claim(farm)
        kept = sorted({*kept, *store(objects, found)})
        died(farm, worker="w1")
    farm.retry(again, quanta={"tiny": 8})
    assert remove_orphans() == kept
    complete(farm, claim(farm))
    assert states(database, again) == [State.DONE]
    assert remove_orphans() == kept


def test_what_was_never_claimed_is_not_looked_for(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(100))
    assert farm.cancel(render_id) == 100
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(orphans)).scalar() == 0


def test_a_retry_during_the_removal_finds_either_no_picture_or_one_that_stays(
    farm: Jobs, objects: LocalObjects, database: Database
) -> None:
    render_id = submit(farm, pictures(1))
    for _ in range(3):
        store(objects, claim(farm))
        died(farm, worker="w1")
    with database.write() as connection:
        connection.execute(update(orphans).values(due_at=0))
    at_once(Orphans(database, objects).remove_due, lambda: farm.retry(render_id, quanta={"tiny": 8}))
    found = claim(farm)
    store(objects, found)
    complete(farm, found)
    Orphans(database, objects).remove_due()
    assert list(objects.list()) == [picture_key(render_id, 0)]


class HangingObjects(LocalObjects):
    """A store that does not answer deletions until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.answers = threading.Event(), threading.Event()

    def delete(self, key: str) -> None:
        self.asked.set()
        self.answers.wait()
        super().delete(key)


def test_a_store_that_hangs_while_it_deletes_keeps_nobody_from_the_database(
    farm: Jobs, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.jobs.jobs, "_REMOVAL_SECONDS", 0.1)
    hanging = HangingObjects(tmp_path / "objects")
    render_id = submit(farm, pictures(1))
    for _ in range(3):
        store(hanging, claim(farm))
        died(farm, worker="w1")
    with database.write() as connection:
        connection.execute(update(orphans).values(due_at=0))
    with ThreadPoolExecutor() as threads:
        removing = threads.submit(Orphans(database, hanging).remove_due)
        hanging.asked.wait()
        # Not in this thread: what waits for a lock here would wait for ever.
        submitting = threads.submit(submit, farm, pictures(1))
        also_removing = threads.submit(Orphans(database, hanging).remove_due)
        retrying = threads.submit(farm.retry, render_id, quanta={"tiny": 8})
        try:
            eventually(
                lambda: submitting.done() and also_removing.done() and retrying.done(), "nobody waits for the store"
            )
        finally:
            hanging.answers.set()
        assert also_removing.result() == 0, "it is being removed already"
        with pytest.raises(ObjectStoreProblem, match="being deleted.*retry when it does"):
            retrying.result()
        assert removing.result() == 1
    assert list(hanging.list()) == []
    assert farm.retry(render_id, quanta={"tiny": 8}) == 1
    found = claim(farm)
    kept = store(hanging, found)
    complete(farm, found)
    assert render_id in {job.render_id for job in found.jobs}
    assert Orphans(database, hanging).remove_due() == 0
    assert list(hanging.list()) == sorted(kept)


def test_a_picture_stored_while_the_one_before_is_deleted_is_removed_too(
    farm: Jobs, tmp_path: Path, database: Database, remove_orphans: RemoveOrphans
) -> None:
    hanging = HangingObjects(tmp_path / "objects")
    render_id = submit(farm, pictures(1))
    found = claim(farm)
    store(hanging, found)
    farm.cancel(render_id)
    with database.write() as connection:
        connection.execute(update(orphans).values(due_at=0))
    with ThreadPoolExecutor() as threads:
        removing = threads.submit(Orphans(database, hanging).remove_due)
        hanging.asked.wait()
        completing = threads.submit(complete, farm, found)
        try:
            eventually(completing.done, "it waits for no store")
        finally:
            hanging.answers.set()
        assert set(completing.result().values()) == {State.CANCELLED}
        removing.result()
    store(hanging, found)
    assert remove_orphans() == []


def test_a_deletion_whose_process_died_is_made_by_another(
    farm: Jobs, objects: LocalObjects, database: Database, remove_orphans: RemoveOrphans
) -> None:
    render_id = submit(farm, pictures(1))
    store(objects, claim(farm))
    farm.cancel(render_id)
    with database.write() as connection:
        connection.execute(update(orphans).values(due_at=0, marked_until=database_now() - 1))
    assert remove_orphans() == []
