"""Reading what is, on both databases."""

import pytest
from sqlalchemy import update

from storage.database.connection import Database
from storage.database.tables import renders
from storage.errors import NotFound
from storage.jobs.jobs import Jobs
from storage.renders.views import Views
from storage.rules.states import Priority, State
from tests.contract.renders import claim, complete, fail, pictures, published, rendered, submit


@pytest.fixture
def views(database: Database) -> Views:
    return Views(database)


def test_a_render_is_shown_with_its_counters(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(5), owner="bob", priority=Priority.BULK)
    found = claim(farm, limit=3)
    farm.complete(rendered(found), published(found.jobs[0]))
    fail(farm, found.jobs[1], "black picture")
    render = views.render(render_id)
    assert (render.id, render.owner, render.priority) == (render_id, "bob", Priority.BULK)
    assert (render.total, render.done, render.failed, render.cancelled, render.remaining) == (5, 1, 1, 0, 3)
    assert (render.state, render.finished, render.finished_at) == ("running", False, None)
    farm.cancel(render_id)
    assert views.render(render_id).finished


def test_a_picture_is_shown_with_the_hash_of_its_pixels_and_what_its_worker_says(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(3))
    complete(farm, claim(farm, limit=2))
    shown = list(views.jobs(render_id))
    assert [job.pixels_sha256 for job in shown] == [f"{0:064x}", f"{1:064x}", None]
    assert [job.remarks for job in shown] == [(), ("prompt: ignored from character 376 on",), ()]


def test_the_newest_renders_are_listed_first(farm: Jobs, views: Views) -> None:
    ids = [submit(farm, pictures(1)) for _ in range(4)]
    with farm.database.write() as connection:
        # A clock of milliseconds may give two renders the same moment.
        for moment, render_id in enumerate(ids):
            connection.execute(update(renders).where(renders.c.id == render_id).values(created_at=moment))
    listed = [render.id for render in views.renders(limit=3)]
    assert listed == ids[:0:-1]


def test_unfinished_jobs_of_all_renders_are_counted(farm: Jobs, views: Views) -> None:
    assert views.unfinished_jobs() == 0
    submit(farm, pictures(3))
    cancelled = submit(farm, pictures(2))
    complete(farm, claim(farm, limit=1))
    assert views.unfinished_jobs() == 4
    farm.cancel(cancelled)
    assert views.unfinished_jobs() == 2


def test_a_job_is_found_under_the_name_that_it_shows(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(13))
    job = views.job(f"{render_id}-000012")
    assert job.id == f"{render_id}-000012"
    assert (job.index, job.spec.seed, job.state) == (12, 12, State.QUEUED)
    assert job.file_name == "000012-12.png"
    assert views.job(f"{render_id}-12") == job


def test_a_finished_job_tells_what_became_of_it(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(2))
    found = claim(farm)
    farm.complete(rendered(found), published(found.jobs[0]))
    fail(farm, found.jobs[1], "black picture")
    done, failed = views.jobs(render_id)
    assert (done.state, done.worker, done.attempt, done.error) == (State.DONE, "w1", 1, None)
    assert (done.object, done.bytes, done.batch_id) == (f"renders/{render_id}/000000.png", 1000, found.batch_id)
    assert (failed.state, failed.error, failed.object) == (State.FAILED, "black picture", None)


def test_jobs_are_read_page_by_page_in_the_order_of_their_indexes(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(2500))
    submit(farm, pictures(3))
    assert [job.index for job in views.jobs(render_id)] == [*range(2500)]
    assert [job.index for job in views.jobs(render_id, limit=1500)] == [*range(1500)]
    assert [job.index for job in views.jobs(render_id, after=998, limit=3)] == [999, 1000, 1001]
    assert [*views.jobs(render_id, limit=0)] == []
    assert [*views.jobs(render_id, after=2499)] == []
    assert [*views.jobs("000000000000")] == []


def test_jobs_are_read_by_state(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(4))
    complete(farm, claim(farm, limit=3))
    assert [job.index for job in views.jobs(render_id, state=State.DONE)] == [0, 1, 2]
    assert [job.index for job in views.jobs(render_id, state=State.QUEUED)] == [3]
    assert [job.index for job in views.jobs(render_id, state=State.DONE, after=0, limit=1)] == [1]


def test_a_batch_gives_its_specifications_in_the_order_of_rendering(farm: Jobs, views: Views) -> None:
    submit(farm, pictures(4))
    found = claim(farm)
    complete(farm, found)
    batch = views.batch(found.batch_id)
    assert views.specs(batch) == [job.spec for job in found.jobs]
    assert batch.finished_at > 0


@pytest.mark.parametrize("render_id", ["000000000000", "", "'; DROP TABLE renders; --", "../x", "é", "a" * 1000])
def test_an_unknown_render_is_named(render_id: str, views: Views) -> None:
    with pytest.raises(NotFound, match="no render with id") as refusal:
        views.render(render_id)
    assert "farm status" in str(refusal.value)


@pytest.mark.parametrize("render_id", ["k7m2\0", "k7m2\udcff"], ids=ascii)
def test_what_no_database_can_hold_is_no_render(render_id: str, views: Views) -> None:
    # A byte that is no UTF-8 on a command line arrives as a lone surrogate.
    with pytest.raises(NotFound):
        views.render(render_id)


@pytest.mark.parametrize(
    "job_id",
    ["", "k7m2p9x4tq8z", "k7m2p9x4tq8z-", "-1", "k7m2p9x4tq8z-9999999999", "K7-1", "a-1\n", "a-1\0", "a-\udcff"],
    ids=ascii,
)
def test_what_is_no_id_of_a_job_is_refused_with_an_example(job_id: str, views: Views) -> None:
    with pytest.raises(NotFound, match="is not a job id; expected one such as"):
        views.job(job_id)


def test_an_unknown_job_or_batch_is_named(farm: Jobs, views: Views) -> None:
    render_id = submit(farm, pictures(1))
    with pytest.raises(NotFound, match=f"{render_id}-000001"):
        views.job(f"{render_id}-000001")
    with pytest.raises(NotFound, match=r"1\.1"):
        views.batch("1.1")
