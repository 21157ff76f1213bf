"""Deleting one render or one picture: what goes, what stays, and who is in the way."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event

import pytest
from PIL import Image
from sqlalchemy import insert, update

from scheduler.background.orphan_removal import OrphanRemoval
from scheduler.results.deletion import Deletion
from scheduler.results.download import Downloads
from scheduler.services import Services
from storage.database.connection import Database, database_now
from storage.database.tables import api_batches, metadata, renders
from storage.errors import NotFound, ObjectStoreProblem, StillNeeded
from storage.jobs.jobs import Jobs
from storage.jobs.orphans import Orphans
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore, open_objects
from storage.renders.exports import Exports
from storage.renders.purge import PurgeRows
from storage.renders.views import Views
from storage.rules.states import State
from storage.settings import Settings
from tests.contract.datasets import render_of, wanted
from tests.contract.renders import at_once, claim, complete, fail, rendered, rows, states, submit
from tests.contract.stage import Stage, running_stage
from tests.contract.test_purge import counted, retry, unless_deleted
from worker.serving.leases import Leases
from worker.serving.outages import OutageRetry
from worker.serving.patient import PatientObjects
from worker.serving.publish import Publisher
from worker.serving.watchdog import Watchdog


def deletion_of(farm: Jobs, database: Database, objects: ObjectStore, *, lease_seconds: float = 60.0) -> Deletion:
    services = Services(settings=Settings(lease_seconds=lease_seconds), database=database)
    # Where they are looked up: the test's own.
    vars(services).update(objects=objects, jobs=farm)
    return Deletion(services=services)


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    """What differs between stores is the matter of `test_objects.py`."""
    return open_objects(local)


@pytest.fixture
def deletion(farm: Jobs, database: Database, objects: ObjectStore) -> Deletion:
    return deletion_of(farm, database, objects)


def lapse_spare(database: Database) -> None:
    """As if hidden renders had been finished for longer than a lease lasts."""
    with database.write() as connection:
        connection.execute(update(renders).values(finished_at=database_now() - 1000))


def keep_house(deletion: Deletion) -> None:
    """What the scheduler process does all the time."""
    orphans = Orphans(deletion.services.database, deletion.services.objects)
    OrphanRemoval(orphans=orphans, delete_some=deletion.purge.advance, every_seconds=1).run_once()


def told(_: int) -> None: ...


def test_a_render_goes_with_its_pictures_and_the_rest_stays(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    one, other = render_of(farm, objects, 3, failing={1}), render_of(farm, objects, 2)
    shown: list[int] = []

    assert deletion.render(one, shown.append) == 0

    assert shown == [3]
    assert {key.split("/")[1] for key in objects.list()} == {other}
    with pytest.raises(NotFound):
        Views(database).render(one)
    with pytest.raises(NotFound):
        deletion.render(one, told)
    lapse_spare(database)
    keep_house(deletion)
    assert counted(database, renders) == 1


def test_what_is_unfinished_is_cancelled_and_a_worker_that_has_it_leaves_nothing(
    deletion: Deletion, farm: Jobs, objects: ObjectStore
) -> None:
    render_id = submit(farm, wanted(3))
    found = claim(farm, limit=2)

    assert deletion.render(render_id, told) == 3

    leases = Leases(farm, renew_seconds=10, watchdog=Watchdog(stall_seconds=60), on_stall=lambda _: None)
    publisher = Publisher(jobs=farm, objects=PatientObjects(objects, OutageRetry(Event())), leases=leases)
    publisher.publish(rendered(found), found.jobs, [Image.new("RGB", (8, 8))] * 2)
    publisher.drain()
    assert list(objects.list()) == []
    assert farm.claim(model="tiny", worker="w2", limit=8) is None


def test_a_picture_of_a_worker_that_was_killed_after_its_render_was_deleted_is_removed(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = submit(farm, wanted(1))
    claim(farm)
    deletion.render(render_id, told)
    # Stored, and killed before it could record it.
    objects.put(picture_key(render_id, 0), b"late")

    keep_house(deletion)
    objects.put(picture_key(render_id, 0), b"later")
    lapse_spare(database)
    keep_house(deletion)

    assert list(objects.list()) == []
    for table in metadata.tables.values():
        assert counted(database, table) == 0, table.name


def test_an_export_keeps_its_render_and_cancels_nothing_of_it(
    deletion: Deletion, farm: Jobs, database: Database
) -> None:
    render_id = submit(farm, wanted(2))
    export_id = Exports(database).begin(render_id=render_id, format="parquet", target="/secret", options={})

    with pytest.raises(StillNeeded, match=f"--give-up-export {export_id}") as refused:
        deletion.render(render_id, told)
    with pytest.raises(StillNeeded, match="unfinished"):
        deletion.job(Views(database).job(f"{render_id}-000001"))

    assert "/secret" not in str(refused.value)
    assert states(database, render_id) == [State.QUEUED] * 2
    Exports(database).finish(export_id)
    assert deletion.render(render_id, told) == 2


def test_an_export_that_begins_at_the_same_moment_is_refused_or_keeps_the_render(
    deletion: Deletion, farm: Jobs, database: Database
) -> None:
    def deleted(render_id: str) -> bool:
        try:
            deletion.hide(render_id)
        except StillNeeded:
            return False
        return True

    for _ in range(5):
        render_id = submit(farm, wanted(1))
        begin = partial(Exports(database).begin, render_id=render_id, format="parquet", target="/a", options={})

        gone, begun = at_once(partial(deleted, render_id), partial(unless_deleted, begin))

        assert gone is not begun
        assert [row.state for row in rows(database, render_id)] == ["cancelled" if gone else "queued"]


def test_a_retry_at_the_same_moment_changes_nothing(deletion: Deletion, farm: Jobs, database: Database) -> None:
    for _ in range(5):
        render_id = submit(farm, wanted(1))
        fail(farm, claim(farm).jobs[0], "the picture is black")

        at_once(
            partial(unless_deleted, partial(deletion.hide, render_id)),
            partial(unless_deleted, partial(retry, farm, render_id)),
        )

        with pytest.raises(NotFound):
            Views(database).render(render_id)
        assert states(database, render_id)[0] in (State.FAILED, State.CANCELLED)


def test_a_store_that_fails_leaves_a_hidden_render_to_the_scheduler_process(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_id = render_of(farm, objects, 3)

    def away(_key: str) -> None:
        raise ObjectStoreProblem("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(objects, "delete", away)
        with pytest.raises(ObjectStoreProblem):
            deletion.render(render_id, told)
    with pytest.raises(NotFound):
        Views(database).render(render_id)

    lapse_spare(database)
    keep_house(deletion)

    assert list(objects.list()) == []
    assert counted(database, renders) == 0


def test_one_picture_goes_and_its_render_counts_it_no_more(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = render_of(farm, objects, 4, failing={2})
    views = Views(database)

    for index in (1, 2):
        assert deletion.job(views.job(f"{render_id}-{index:06d}")) == 0

    render = views.render(render_id)
    assert (render.state, render.total, render.done, render.failed) == ("done", 2, 2, 0)
    assert [job.index for job in views.jobs(render_id)] == [0, 3]
    assert sorted(objects.list()) == [picture_key(render_id, index) for index in (0, 3)]
    with pytest.raises(NotFound):
        views.job(f"{render_id}-000001")


def test_a_job_that_runs_is_cancelled_and_its_batch_goes_on(deletion: Deletion, farm: Jobs, database: Database) -> None:
    render_id = submit(farm, wanted(3))
    found = claim(farm)

    assert deletion.job(Views(database).job(f"{render_id}-000001")) == 1

    assert complete(farm, found) == {found.jobs[1].id: None}
    render = Views(database).render(render_id)
    assert (render.state, render.total, render.done) == ("done", 2, 2)


def test_with_its_last_picture_a_render_goes(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = render_of(farm, objects, 1)

    deletion.job(Views(database).job(f"{render_id}-000000"))

    with pytest.raises(NotFound):
        Views(database).render(render_id)
    assert list(objects.list()) == []


def test_a_line_of_a_batch_of_openais_goes_only_with_its_render(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = render_of(farm, objects, 2)
    row = {"id": "batch_7", "owner": "ann", "file_id": "f", "render_id": render_id, "metadata": "{}", "lines": "[]"}
    with database.write() as connection:
        connection.execute(insert(api_batches).values(**row, created_at=0))

    with pytest.raises(StillNeeded, match="batch_7.*delete the whole render"):
        deletion.job(Views(database).job(f"{render_id}-000000"))

    assert len(list(objects.list())) == 2
    deletion.render(render_id, told)
    assert counted(database, api_batches) == 0


def test_a_download_of_a_render_that_is_deleted_meanwhile_says_so_and_keeps_what_it_has(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 6)
    downloads = Downloads(Views(database), objects, render_id, tmp_path / "out")
    deletion.hide(render_id)
    objects.delete(picture_key(render_id, 5))

    with pytest.raises(NotFound, match=f"render {render_id} was deleted while it was downloaded; 5 of its pictures"):
        downloads.fetch_finished(told)
    deletion.purge.finish(render_id, told)
    with pytest.raises(NotFound, match="was deleted while it was downloaded"):
        downloads.fetch_finished(told)

    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_a_download_passes_over_a_picture_that_is_deleted_meanwhile(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 3)
    job = Views(database).job(f"{render_id}-000001")
    deletion.job(job)
    downloads = Downloads(Views(database), objects, render_id, tmp_path)

    assert downloads._fetched(job) is None
    downloads.fetch_finished(told)

    assert downloads.written == 2


def test_a_purge_beside_a_deletion_leaves_nothing_twice(
    deletion: Deletion, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    found = [render_of(farm, objects, 3) for _ in range(3)]
    for render_id in found:
        deletion.hide(render_id)
    lapse_spare(database)

    at_once(deletion.purge.advance, partial(deletion.purge.run, [], told), deletion.purge.advance)
    keep_house(deletion)

    assert list(objects.list()) == []
    assert PurgeRows(database).marked() == []


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with running_stage(tmp_path / "home") as found:
        yield found


def test_over_http_a_render_is_gone_at_once_and_its_pictures_follow(stage: Stage) -> None:
    farm = stage.farm()
    render_id = farm.submit(["a star", "a circle"]).id
    farm.wait(render_id)
    objects = stage.services.objects

    bobs = stage.client(stage.new_key("bob"))
    assert bobs.delete(f"/v1/renders/{render_id}", params={"purge": "true"}).status_code == 404
    assert bobs.delete(f"/v1/jobs/{render_id}-000000", params={"purge": "true"}).status_code == 404
    wrong = stage.client().delete(f"/v1/renders/{render_id}", params={"purge": "maybe"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "purge")
    # As ever: without that word nothing that is done is lost.
    assert stage.client().delete(f"/v1/renders/{render_id}").json()["state"] == "done"
    export_id = Exports(stage.services.database).begin(
        render_id=render_id, format="parquet", target="/secret", options={}
    )
    refused = stage.client().delete(f"/v1/renders/{render_id}", params={"purge": "true"})
    assert (refused.status_code, "/secret" in refused.text) == (409, False)
    Exports(stage.services.database).give_up(export_id)

    one = stage.client().delete(f"/v1/jobs/{render_id}-000001", params={"purge": "true"})
    assert one.json() == {"id": f"{render_id}-000001", "state": "deleted", "cancelled": 0}
    assert stage.client().get(f"/v1/renders/{render_id}").json()["total"] == 1
    gone = stage.client().delete(f"/v1/renders/{render_id}", params={"purge": "true"})

    assert gone.json() == {"id": render_id, "state": "deleted", "cancelled": 0}
    assert stage.client().get(f"/v1/renders/{render_id}").status_code == 404
    assert stage.client().get(f"/v1/jobs/{render_id}-000000/image").status_code == 404
    assert len(list(objects.list("renders/"))) == 1
    keep_house(Deletion(services=stage.services))
    assert list(objects.list("renders/")) == []
