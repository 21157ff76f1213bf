"""Thumbnails: made once, kept with their picture, gone with it, and seen by whoever may see the picture."""

import io
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import event

from diffusion_farm import Farm, NotFoundProblem, Render
from scheduler.api.page.looks import SharedLooks
from scheduler.results.deletion import Deletion
from scheduler.results.thumbnails import Side, Thumbnails, _Recent, shrunk
from storage.database.connection import Database
from storage.errors import NotFound
from storage.jobs.jobs import Jobs
from storage.objects.object_keys import picture_key, thumbnail_key
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views
from tests.contract.datasets import render_of
from tests.contract.renders import at_once
from tests.contract.stage import Stage, png, running_stage
from tests.contract.test_deletion import deletion_of


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("thumbnails") / "home") as stage:
        yield stage


@pytest.fixture
def made(stage: Stage) -> Render:
    farm = stage.farm()
    return farm.wait(farm.submit("a star", width=512, height=256))


def asked(stage: Stage, render: Render, *, key: str | None = None, headers: Any = None, **query: Any) -> httpx.Response:
    return stage.client(key).get(f"/v1/jobs/{render.id}-000000/thumbnail", params=query, headers=headers)


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "WEBP"
        picture.load()
        return picture.size


def test_a_thumbnail_has_the_size_that_was_asked_for_and_the_shape_of_its_picture() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (512, 256), "red").save(picture, "PNG")
    assert [size_of(shrunk(picture.getvalue(), side)) for side in Side] == [(64, 32), (128, 64), (256, 128), (512, 256)]


@pytest.mark.parametrize(("mode", "size"), [("RGB", (1, 1)), ("RGB", (8, 4096)), ("L", (64, 64)), ("RGBA", (300, 20))])
def test_a_picture_of_any_shape_gets_one_and_none_is_enlarged(mode: str, size: tuple[int, int]) -> None:
    picture = io.BytesIO()
    Image.new(mode, size).save(picture, "PNG")
    width, height = size_of(shrunk(picture.getvalue(), Side.GALLERY))
    assert max(width, height) == min(256, max(size))
    assert min(width, height) >= 1


def test_a_small_picture_keeps_every_pixel() -> None:
    picture = io.BytesIO()
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    noise.save(picture, "PNG")
    with Image.open(io.BytesIO(shrunk(picture.getvalue(), Side.GALLERY))) as kept:
        assert kept.convert("RGB").tobytes() == noise.tobytes()


def test_a_thumbnail_is_made_once_and_kept_beside_its_picture(stage: Stage, made: Render) -> None:
    key = thumbnail_key(made.id, 0, Side.TABLE)
    assert not stage.services.objects.exists(key)
    first = asked(stage, made, size=128)
    assert (first.status_code, first.headers["content-type"], size_of(first.content)) == (200, "image/webp", (128, 128))
    assert stage.services.objects.get(key) == first.content

    # Not made again: it is given out as it is kept, by another process, too, which has not seen it before.
    stage.services.objects.delete(key)
    stage.services.objects.put(key, b"as it is kept")
    job = stage.services.views.job(f"{made.id}-000000")
    other = Thumbnails(views=stage.services.views, objects=stage.services.objects)
    assert other.kept(job, Side.TABLE) == b"as it is kept"
    # Whoever gave it out a moment ago need not ask the store.
    assert asked(stage, made, size=128).content == first.content
    assert size_of(asked(stage, made).content) == (256, 256), "of a gallery, unless another size is asked for"


def test_whoever_asks_for_one_that_was_just_seen_costs_one_question_and_nothing_of_the_store(
    stage: Stage, made: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(stage, made).status_code == 200
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def read(key: str) -> bytes:
        raise AssertionError(f"{key} is read again")

    monkeypatch.setattr(stage.services.objects, "get", read)
    engine = stage.services.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        assert asked(stage, made).status_code == 200
    finally:
        event.remove(engine, "before_cursor_execute", note)
    of_pictures = [one for one in statements if "FROM jobs" in one or "FROM renders" in one]
    # The worker by hand looks for others meanwhile.
    assert len([one for one in of_pictures if "pixels_sha256" in one and "renders.owner" in one]) == 1
    assert not [one for one in of_pictures if "FROM renders" in one and "renders.total" in one]


def test_pages_that_ask_for_the_same_at_the_same_moment_read_its_row_together(
    stage: Stage, made: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(stage, made).status_code == 200
    views, get, keys = stage.services.views, SharedLooks.get, [stage.new_key() for _ in range(3)]
    job, all_there = views.job, threading.Event()
    came: list[Any] = []
    read: list[str] = []

    def come(self: SharedLooks, *words: Any) -> Any:
        if words[0][0] == "picture":
            came.append(words)
            if len(came) == len(keys):
                all_there.set()
        return get(self, *words)

    def look(job_id: str, **said: Any) -> Any:
        read.append(job_id)
        assert all_there.wait(30)
        return job(job_id, **said)

    monkeypatch.setattr(SharedLooks, "get", come)
    monkeypatch.setattr(views, "job", look)
    # By keys of their own: of one, only so many requests are read at once.
    answers = at_once(*[partial(asked, stage, made, key=key) for key in keys])
    assert {answer.status_code for answer in answers} == {200}
    # Who came first, and once more for all who came while that was read.
    assert len(read) == 2


def test_a_browser_keeps_it_and_asks_whether_it_has_changed(stage: Stage, made: Render) -> None:
    first = asked(stage, made)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, max-age=86400"
    assert first.headers["vary"] == "Authorization, X-API-Key, Cookie"
    for said in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = asked(stage, made, headers={"If-None-Match": said})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == first.headers["cache-control"]
    assert asked(stage, made, headers={"If-None-Match": '"other"'}).status_code == 200
    assert asked(stage, made, size=64, headers={"If-None-Match": tag}).status_code == 200, "each size has its own"


def test_only_who_may_see_the_picture_sees_its_thumbnail(stage: Stage, made: Render) -> None:
    tag = asked(stage, made).headers["etag"]
    stranger = stage.new_key(owner="bob")
    for headers in ({}, {"If-None-Match": tag}, {"If-None-Match": "*"}):
        refused = asked(stage, made, key=stranger, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert "etag" not in refused.headers
    without = stage.keyless().get(f"/v1/jobs/{made.id}-000000/thumbnail")
    assert without.status_code == 401


@pytest.mark.parametrize("size", ["0", "65", "1024", "256.5", "big", ""])
def test_another_size_is_refused_and_the_right_ones_are_named(stage: Stage, made: Render, size: str) -> None:
    refused = asked(stage, made, size=size)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "size")
    assert "64, 128, 256 or 512" in refused.json()["detail"]


def test_what_has_no_picture_has_no_thumbnail(stage: Stage) -> None:
    stage.working.clear()
    try:
        render = stage.farm().submit("a star")
        refused = asked(stage, render)
        assert (refused.status_code, refused.json()["code"]) == (404, "no_picture")
        assert "is queued and has no picture" in refused.json()["detail"]
        with pytest.raises(NotFoundProblem, match="has no picture"):
            stage.farm().thumbnail(f"{render.id}-000000")
        stage.farm().cancel(render)
    finally:
        stage.working.set()


def test_a_picture_that_is_gone_or_damaged_is_told(stage: Stage, made: Render) -> None:
    objects = stage.services.objects
    objects.delete(picture_key(made.id, 0))
    gone = asked(stage, made)
    assert (gone.status_code, gone.json()["code"]) == (404, "no_picture")
    assert gone.json()["detail"] == f"job {made.id}-000000: its picture is gone from the object store"

    objects.put(picture_key(made.id, 0), png(32))
    assert "is damaged" in asked(stage, made).json()["detail"]
    assert not objects.exists(thumbnail_key(made.id, 0, Side.GALLERY))


def test_the_client_gets_thumbnails(stage: Stage, made: Render) -> None:
    farm: Farm = stage.farm()
    assert size_of(farm.thumbnail(f"{made.id}-000000")) == (256, 256)
    [job] = farm.jobs(made)
    assert size_of(farm.thumbnail(job, size=64)) == (64, 64)


def test_thumbnails_go_with_their_picture_and_with_their_render(stage: Stage) -> None:
    farm, objects = stage.farm(), stage.services.objects
    render = farm.wait(farm.submit("a star", n=2))
    for job in farm.jobs(render):
        for side in Side:
            farm.thumbnail(job, size=side)
    deletion = Deletion(services=stage.services)

    deletion.job(stage.services.views.job(f"{render.id}-000000"))

    assert {key.rpartition("/")[2] for key in objects.list(f"renders/{render.id}/")} == {"000001.png", "000001.webp"}
    deletion.render(render.id, lambda _: None)
    assert list(objects.list(f"renders/{render.id}/")) == []


def test_of_what_is_kept_in_memory_the_oldest_goes_first_and_none_outlives_its_picture(
    stage: Stage, made: Render
) -> None:
    job = stage.services.views.job(f"{made.id}-000000")
    recent = _Recent(most_bytes=10)
    recent.keep(job, Side.LIST, b"1234")
    recent.keep(job, Side.TABLE, b"1234")
    assert recent.get(job, Side.LIST) == b"1234"
    recent.keep(job, Side.LARGE, b"123")
    assert [recent.get(job, side) for side in (Side.LIST, Side.TABLE, Side.LARGE)] == [b"1234", None, b"123"]
    recent.keep(job, Side.GALLERY, b"too much by itself")
    assert [recent.get(job, side) for side in Side] == [None] * 4

    assert asked(stage, made).status_code == 200
    Deletion(services=stage.services).job(job)
    assert asked(stage, made).status_code == 404


# On every database and store.


def finished(farm: Jobs, database: Database, objects: ObjectStore) -> JobView:
    return Views(database).job(f"{render_of(farm, objects, 2)}-000000")


def test_whoever_makes_one_at_the_same_time_gets_the_same(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    job = finished(farm, database, objects)
    thumbnails = Thumbnails(views=Views(database), objects=objects)

    made = at_once(*[partial(thumbnails.make, job, Side.LIST)] * 4)

    assert len({*made}) == 1
    assert thumbnails.kept(job, Side.LIST) == made[0]


@pytest.mark.parametrize("whole", [True, False], ids=["render", "picture"])
@pytest.mark.parametrize("step", ["before it is stored", "after it is stored"])
def test_of_a_picture_that_is_deleted_meanwhile_no_thumbnail_stays(
    farm: Jobs, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, whole: bool, step: str
) -> None:
    job = finished(farm, database, objects)
    deletion = deletion_of(farm, database, objects)
    put = objects.put

    def delete() -> None:
        deletion.render(job.render_id, lambda _: None) if whole else deletion.job(job)

    def meanwhile(key: str, data: bytes) -> Any:
        if step == "before it is stored":
            delete()
        stored = put(key, data)
        if step == "after it is stored":
            delete()
        return stored

    monkeypatch.setattr(objects, "put", meanwhile)
    with pytest.raises(NotFound):
        Thumbnails(views=Views(database), objects=objects).make(job, Side.GALLERY)

    assert [key for key in objects.list() if key.endswith(".webp")] == []
