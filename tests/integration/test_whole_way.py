"""From submission to stored pictures, through every real part."""

import hashlib
import io
import json

import redis
from PIL import Image
from sqlalchemy import select, text

from storage.database.connection import database_now
from storage.rules.states import Priority
from tests.integration.farm import Farm, device_processes
from tests.servers import eventually


def test_a_picture_carries_the_seed_and_recipe_of_its_row(farm: Farm) -> None:
    farm.workers(1)

    render_id = farm.submit(3)
    farm.finished(render_id)

    for job in farm.services.views.jobs(render_id):
        assert job.object is not None
        data = farm.services.objects.get(job.object)
        with Image.open(io.BytesIO(data)) as picture:
            recipe = json.loads(picture.info["diffusion-farm"])
            assert recipe["spec"] == job.spec.fields()
            assert f"Seed: {job.spec.seed}," in picture.info["parameters"]
            assert picture.size == (job.spec.width, job.spec.height)
        assert hashlib.sha256(data).hexdigest() == job.sha256


def test_a_small_render_of_another_owner_is_done_within_a_few_batches(farm: Farm) -> None:
    farm.workers(1)
    bulk = farm.submit(1500, owner="ann")
    farm.some_done(bulk)

    small = farm.submit(10, owner="ben")
    with farm.services.database.read() as connection:
        submitted = connection.execute(select(database_now())).scalar_one()
    farm.finished(small)

    # Ten jobs are two batches. Before them what was claimed ahead, between them one of ann's: two, and one to spare.
    last = max(row.started_at for row in farm.rows(small))
    meanwhile = [row.index for row in farm.rows(bulk) if row.started_at and submitted < row.started_at < last]
    assert len(meanwhile) <= 3 * 8
    assert not farm.render(bulk).finished


def test_an_interactive_job_starts_with_the_next_batch(farm: Farm) -> None:
    farm.workers(1)
    bulk = farm.submit(64, model="slow", priority=Priority.BULK)
    farm.some_done(bulk)

    urgent = farm.submit(1, model="slow", priority=Priority.INTERACTIVE)
    # A claim may have chosen its jobs before the submission, and stamp them after it: not while the table is locked.
    with farm.services.database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
        submitted = connection.execute(select(database_now())).scalar_one()
    farm.finished(urgent)

    started = next(row.started_at for row in farm.rows(urgent))
    overtook = [row.index for row in farm.rows(bulk) if row.started_at and submitted < row.started_at < started]
    assert overtook == []


def test_an_interactive_job_of_another_model_does_not_wait_for_the_turn_to_end(farm: Farm) -> None:
    farm.workers(1)
    bulk = farm.submit(64, model="slow", priority=Priority.BULK)
    farm.some_done(bulk)

    urgent = farm.submit(1, model="quick", priority=Priority.INTERACTIVE)
    farm.finished(urgent)

    assert not farm.render(bulk).finished


def test_an_interactive_job_of_another_loaded_model_does_not_wait_for_what_has_begun(farm: Farm) -> None:
    farm.workers(1)
    farm.finished(farm.submit(1, model="quick"))
    bulk = farm.submit(64, model="slow", priority=Priority.BULK)
    farm.some_done(bulk)

    urgent = farm.submit(1, model="quick", priority=Priority.INTERACTIVE)
    farm.finished(urgent)
    farm.finished(bulk)

    [row] = farm.rows(urgent)
    aside = [one for one in farm.rows(bulk) if one.started_at < row.started_at and one.finished_at > row.finished_at]
    assert aside
    assert {one.attempt for one in farm.rows(bulk)} == {1}
    farm.assert_sound(bulk)


def test_a_render_is_done_though_every_message_was_lost(farm: Farm) -> None:
    farm.scheduler()
    render_id = farm.submit(200, model="quick")
    eventually(lambda: sum(farm.tickets.queued("quick").values()) > 0, "tickets wait in Redis")

    lose_every_message(farm)
    farm.workers(1)
    lose_every_message(farm)

    farm.finished(render_id)
    farm.assert_sound(render_id)


def lose_every_message(farm: Farm) -> None:
    assert farm.settings.broker_url
    with redis.Redis.from_url(farm.settings.broker_url) as client:
        client.flushall()


def test_each_device_has_a_process_with_its_own_environment_and_name(farm: Farm) -> None:
    supervisor = farm.workers(3)

    found = device_processes(supervisor)

    assert sorted(found) == ["simulated:0", "simulated:1", "simulated:2"]
    assert {process.environ()["CUDA_VISIBLE_DEVICES"] for process in found.values()} == {""}
    assert [worker.name for worker in farm.services.workers.all()] == [f"simulated-{i}@here" for i in range(3)]


def test_a_cancelled_render_stops_and_leaves_no_picture_without_a_row(farm: Farm) -> None:
    farm.scheduler()
    farm.workers(1)
    render_id = farm.submit(64, model="slow")
    farm.some_done(render_id)

    farm.services.jobs.cancel(render_id)
    another = farm.submit(8, model="quick")
    farm.finished(another)

    eventually(lambda: farm.services.workers.all()[0].state == "idle", "the worker is idle")
    eventually(lambda: not farm.orphans(), "what it left behind is removed")
    farm.assert_sound(render_id)
    assert farm.render(render_id).cancelled > 0
