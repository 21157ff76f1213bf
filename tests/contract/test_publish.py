"""What the publisher records of a picture."""

import hashlib
import io
import json
from dataclasses import replace
from threading import Event
from typing import Any, cast

import pytest
from PIL import Image

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.object_keys import picture_key
from storage.objects.pixels import pixels_sha256
from storage.objects.store import ObjectStore
from storage.renders.views import Views
from tests.contract.datasets import wanted
from tests.contract.renders import claim, rendered, submit
from worker.serving.leases import Leases
from worker.serving.outages import OutageRetry
from worker.serving.patient import PatientObjects
from worker.serving.publish import Publisher
from worker.serving.watchdog import Watchdog


def publishing(farm: Jobs, objects: ObjectStore) -> Publisher:
    leases = Leases(farm, renew_seconds=10, watchdog=Watchdog(stall_seconds=60), on_stall=lambda _: None)
    return Publisher(jobs=farm, objects=PatientObjects(objects, OutageRetry(Event())), leases=leases)


def test_what_others_took_while_the_worker_was_frozen_is_not_stored(
    farm: Jobs, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its orphan was looked for already; if the worker dies next, nobody looks again."""
    monkeypatch.setattr("worker.serving.leases._FRESH_SECONDS", 0.0)
    cancelled, kept = submit(farm, wanted(1)), submit(farm, wanted(1))
    found = claim(farm, limit=2)
    farm.cancel(cancelled)
    publisher = publishing(farm, objects)
    publisher.publish(rendered(found), found.jobs, [Image.new("RGB", (8, 8))] * 2)
    publisher.drain()
    assert list(objects.list("renders/")) == [picture_key(kept, 0)]


def test_a_picture_that_was_stored_before_is_the_one_whose_pixels_are_hashed(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    """Two attempts may store it; the first one's file is kept."""
    render_id = submit(farm, wanted(2))
    found = claim(farm)
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    file = io.BytesIO()
    first.save(file, "PNG")
    objects.put(picture_key(render_id, 0), file.getvalue())
    publisher = publishing(farm, objects)
    batch = replace(rendered(found), remarks={found.jobs[1].id: ("read in part",)})
    publisher.publish(batch, found.jobs, [second.copy(), second.copy()])
    publisher.drain()
    shown = list(Views(database).jobs(render_id))
    assert [job.pixels_sha256 for job in shown] == [pixels_sha256(first), pixels_sha256(second)]
    assert [job.remarks for job in shown] == [(), ("read in part",)]
    with Image.open(io.BytesIO(objects.get(picture_key(render_id, 1)))) as picture:
        assert json.loads(picture.info["diffusion-farm"])["made_with"]["remarks"] == ["read in part"]


def test_pictures_of_one_batch_keep_what_their_recipes_say_of_each(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = submit(farm, wanted(3))
    found = claim(farm)
    calls: list[dict[str, Any]] = [{"calls": [[8, 1, row, 20]], "decoded": [2, row]} for row in range(2)]
    own = {job.id: said for job, said in zip(found.jobs, calls, strict=False)}
    publisher = publishing(farm, objects)
    batch = replace(rendered(found), recipe={"kind": "tried", "threads": 1}, own_recipes=own)
    publisher.publish(batch, found.jobs, [Image.new("RGB", (8, 8), shade) for shade in ("red", "green", "blue")])
    publisher.drain()

    views = Views(database)
    shown = list(views.jobs(render_id))
    assert {job.batch_id for job in shown} == {batch.id}
    made_with = [views.batch(batch.id).recipe_with(job.own_recipe) for job in shown]
    assert made_with == [{"kind": "tried", "threads": 1} | said for said in (*calls, {})]
    for job, recipe in zip(shown, made_with, strict=True):
        with Image.open(io.BytesIO(objects.get(str(job.object)))) as picture:
            told = json.loads(picture.info["diffusion-farm"])["made_with"]
        # Whose calls are told needs no neighbours.
        assert told == recipe | ({} if "calls" in recipe else {"batch": {"size": 3, "position": 2}})


class Removing:
    """A store of which somebody removes an object just before it is read for the first time."""

    def __init__(self, objects: ObjectStore, key: str) -> None:
        self._objects = objects
        self._key = key
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def get(self, key: str) -> bytes:
        if key == self._key and not self.removed:
            self.removed.append(key)
            self._objects.delete(key)
        return self._objects.get(key)


def test_a_picture_that_was_stored_before_and_is_removed_meanwhile_is_stored_anew(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = submit(farm, wanted(1))
    found = claim(farm)
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    file = io.BytesIO()
    first.save(file, "PNG")
    key = picture_key(render_id, 0)
    objects.put(key, file.getvalue())
    store = Removing(objects, key)
    publisher = publishing(farm, cast(ObjectStore, store))
    publisher.publish(rendered(found), found.jobs, [second.copy()])
    publisher.drain()
    [shown] = Views(database).jobs(render_id)
    assert store.removed == [key]
    assert shown.pixels_sha256 == pixels_sha256(second)
    assert shown.sha256 == hashlib.sha256(objects.get(key)).hexdigest()
