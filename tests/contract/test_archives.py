"""A render's pictures as one ZIP archive: all of them, what is missing told, and no work for who has gone."""

import hashlib
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import update

from diffusion_farm import Farm, NotFoundProblem, Render
from scheduler.cli.main import cli
from scheduler.results.archive import Archive
from scheduler.results.deletion import Deletion
from scheduler.results.download import Downloads
from storage.access.keys import Keys
from storage.database.connection import Database
from storage.database.tables import jobs
from storage.errors import NotFound, ObjectStoreProblem
from storage.jobs.jobs import Jobs
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore
from storage.renders.views import Views
from tests.contract.datasets import render_of
from tests.contract.stage import Stage, running_stage
from tests.contract.test_deletion import deletion_of
from tests.servers import eventually


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("archives") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def made(stage: Stage) -> Render:
    farm = stage.farm()
    return farm.wait(farm.submit(["a star", "a circle"], n=3))


def address(render: Render) -> str:
    return f"/v1/renders/{render.id}/pictures.zip"


def read(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def index_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["pictures.jsonl"].splitlines()]


# Of what stands in it, on every database and store.


def test_an_archive_holds_what_a_download_writes(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 9, failing={4}, cancelled={6})
    downloads = Downloads(Views(database), objects, render_id, tmp_path)
    downloads.fetch_finished(lambda _: None)

    archive = Archive(views=Views(database), objects=objects, render_id=render_id)
    made = b"".join(archive.parts())

    files = read(made)
    assert {name: data for name, data in files.items() if name != "pictures.jsonl"} == {
        path.name: path.read_bytes() for path in tmp_path.glob("*.png")
    }
    written = [json.loads(line) for line in (tmp_path / "pictures.jsonl").read_text().splitlines()]
    assert index_of(files) == sorted(written, key=lambda line: line["index"])
    assert b"".join(archive.parts()) == made, "the same render gives the same bytes"


def test_a_picture_that_is_gone_or_damaged_is_told_in_the_archive(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = render_of(farm, objects, 5)
    objects.delete(picture_key(render_id, 1))
    objects.delete(picture_key(render_id, 3))
    objects.put(picture_key(render_id, 3), b"something else")
    told: list[tuple[int, bool]] = []

    files = read(
        b"".join(
            Archive(views=Views(database), objects=objects, render_id=render_id).parts(
                lambda job, problem: told.append((job.index, problem is None))
            )
        )
    )

    assert files["MISSING.txt"].decode().splitlines() == [
        f"000001-1.png: job {render_id}-000001: its picture is gone from the object store",
        f"000003-3.png: job {render_id}-000003: its picture in the object store is damaged",
    ]
    assert [line["index"] for line in index_of(files)] == [0, 2, 4]
    assert told == [(0, True), (1, False), (2, True), (3, False), (4, True)]


def test_a_render_that_is_deleted_meanwhile_is_told_in_the_archive(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    render_id = render_of(farm, objects, 20)
    parts = Archive(views=Views(database), objects=objects, render_id=render_id).parts()
    begun = next(parts)

    deletion_of(farm, database, objects).render(render_id, lambda _: None)

    files = read(begun + b"".join(parts))
    lines = files["MISSING.txt"].decode().splitlines()
    assert "was deleted while this archive was made" in lines[-1]
    assert len(index_of(files)) + len(lines) - 1 == 20


def test_a_store_that_does_not_answer_ends_an_archive(
    farm: Jobs, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_id = render_of(farm, objects, 20)
    parts = Archive(views=Views(database), objects=objects, render_id=render_id).parts()
    next(parts)

    def away(_key: str) -> bytes:
        raise ObjectStoreProblem("no answer")

    monkeypatch.setattr(objects, "get", away)
    with pytest.raises(ObjectStoreProblem):
        list(parts)


def test_few_pictures_are_fetched_ahead_of_whoever_reads(
    farm: Jobs, database: Database, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_id = render_of(farm, objects, 30)
    get, fetched = objects.get, []

    def counted(key: str) -> bytes:
        fetched.append(key)
        return get(key)

    monkeypatch.setattr(objects, "get", counted)
    before = threading.active_count()
    parts = Archive(views=Views(database), objects=objects, render_id=render_id).parts()
    for _ in range(4):
        next(parts)
    assert len(fetched) <= 5
    parts.close()
    assert threading.active_count() == before


# Over HTTP.


def test_the_pictures_come_as_one_archive(stage: Stage, made: Render) -> None:
    answer = stage.client().get(address(made))

    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{made.id}.zip"'
    assert "content-length" not in answer.headers
    files = read(answer.content)
    of_it = list(stage.farm().jobs(made))
    assert [*files] == [*(f"{job['index']:06d}-{job['seed']}.png" for job in of_it), "pictures.jsonl"]
    assert [line["job"] for line in index_of(files)] == [job["id"] for job in of_it]
    assert files[next(iter(files))] == stage.client().get(of_it[0]["image"]).content


def test_only_pictures_with_a_label_come_if_one_is_named(stage: Stage) -> None:
    farm = stage.farm()
    rows = b'{"prompt": "a star", "split": "train"}\n{"prompt": "a star", "split": "test"}\n'
    uploaded = stage.client().post("/v1/files", files={"file": ("rows.jsonl", rows)}, data={"purpose": "manifest"})
    render = farm.wait(farm.submit(manifest=uploaded.json()["id"]))

    files = read(stage.client().get(address(render), params={"label": "split=test"}).content)

    assert [line["labels"] for line in index_of(files)] == [{"split": "test"}]
    none = stage.client().get(address(render), params={"label": "split=none"})
    assert (none.status_code, none.json()["code"]) == (404, "no_picture")
    assert "no finished pictures with the label split=none" in none.json()["detail"]
    assert stage.client().get(address(render), params={"label": "split"}).status_code == 422


def test_an_archive_is_for_whoever_may_see_the_render(stage: Stage, made: Render) -> None:
    assert stage.client(stage.new_key(owner="bob")).get(address(made)).status_code == 404
    assert stage.keyless().get(address(made)).status_code == 401


def test_without_a_finished_picture_there_is_no_archive(stage: Stage) -> None:
    stage.working.clear()
    try:
        render = stage.farm().submit("a star")
        refused = stage.client().get(address(render))
        assert (refused.status_code, refused.json()["code"]) == (404, "no_picture")
        with pytest.raises(NotFoundProblem):
            stage.farm().save_zip(render, "never.zip")
        stage.farm().cancel(render)
    finally:
        stage.working.set()


def large_render(stage: Stage) -> Render:
    """A render whose archive is larger than what a connection holds by itself."""
    farm = stage.farm()
    render = farm.wait(farm.submit("a star", n=40))
    noise = bytes(range(256)) * 4096
    for job in stage.services.views.jobs(render.id):
        stage.services.objects.delete(picture_key(render.id, job.index))
        stage.services.objects.put(picture_key(render.id, job.index), noise)
    with stage.services.database.write() as connection:
        theirs = jobs.c.render_id == render.id
        connection.execute(update(jobs).where(theirs).values(sha256=hashlib.sha256(noise).hexdigest()))
    return render


def test_a_caller_who_goes_leaves_nothing_behind(stage: Stage) -> None:
    render, archives = large_render(stage), stage.context.archives
    with stage.client().stream("GET", address(render)) as answer:
        assert answer.status_code == 200
        next(answer.iter_raw(1000))
        eventually(lambda: archives.busy == 1, "the archive is being sent")
    eventually(lambda: archives.busy == 0, "its place is free again")
    eventually(lambda: not any(one.name.startswith("archive") for one in threading.enumerate()), "no thread is left")


def test_an_archive_ends_with_the_key_of_who_reads_it_and_is_not_taken_for_a_whole_one(stage: Stage) -> None:
    render, archives = large_render(stage), stage.context.archives
    keys = Keys(stage.services.database)
    key = stage.new_key()
    found = keys.find(key)
    assert found is not None
    with stage.client(key).stream("GET", address(render)) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        keys.revoke(found.id)
        due = time.monotonic() + 2 * stage.context.events_read_seconds
        # Meanwhile the connection is full.
        eventually(lambda: time.monotonic() > due, "it is time to look at keys")
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            for _ in chunks:
                pass
    eventually(lambda: archives.busy == 0, "its place is free again")


def test_a_key_may_read_few_archives_at_the_same_time(stage: Stage) -> None:
    render = large_render(stage)
    host, port = httpx.URL(stage.address).host, httpx.URL(stage.address).port
    request = f"GET {address(render)} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {stage.key}\r\n\r\n"
    readers = [socket.create_connection((host, port or 0)) for _ in range(4)]
    try:
        for reader in readers:
            reader.sendall(request.encode())
        eventually(lambda: stage.context.archives.busy == 4, "four are being sent")
        refused = stage.client().get(address(render))
        assert refused.status_code == 429
        assert "this key has 4 archives that are being sent already" in refused.json()["detail"]
        assert stage.client(stage.new_key()).get(f"/v1/renders/{render.id}").status_code == 200
    finally:
        for reader in readers:
            reader.close()
    eventually(lambda: stage.context.archives.busy == 0, "their places are free again")


def test_the_client_saves_an_archive_whole_or_not_at_all(stage: Stage, made: Render, tmp_path: Path) -> None:
    farm: Farm = stage.farm()
    path = farm.save_zip(made, tmp_path / "made.zip")
    assert len(read(path.read_bytes())) == 7
    assert [one.name for one in tmp_path.iterdir()] == ["made.zip"]


def test_an_archive_whose_store_goes_away_is_cut_off_and_nothing_of_it_is_left(
    stage: Stage, made: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, get = stage.services.objects, stage.services.objects.get
    there = {picture_key(made.id, 0), picture_key(made.id, 1)}

    def away(key: str) -> bytes:
        if key not in there:
            raise ObjectStoreProblem("no answer")
        return get(key)

    monkeypatch.setattr(objects, "get", away)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        stage.farm().save_zip(made, tmp_path / "made.zip")
    there.clear()
    refused = stage.client().get(address(made))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5"), "where it cannot begin, this is said"
    assert [*tmp_path.iterdir()] == []
    assert stage.context.archives.busy == 0


# At the command line.


def run(stage: Stage, *words: str) -> Any:
    return CliRunner().invoke(cli, [*words], env={"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"})


def test_the_command_writes_an_archive_and_overwrites_nothing(stage: Stage, made: Render, tmp_path: Path) -> None:
    path = tmp_path / "made.zip"
    done = run(stage, "fetch", made.id, "--zip", str(path))
    assert (done.exit_code, done.stdout) == (0, f"6 pictures of render {made.id} in {path}\n")
    assert len(read(path.read_bytes())) == 7

    again = run(stage, "fetch", made.id, "--zip", str(path))
    assert isinstance(again.exception, Exception)
    assert "exists; choose another file" in str(again.exception)
    told = run(stage, "fetch", made.id, "--zip", str(tmp_path / "other.zip"), "--json")
    assert json.loads(told.stdout) == {
        "render": made.id,
        "file": str(tmp_path / "other.zip"),
        "pictures": 6,
        "missing": 0,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give a folder (--out DIR) or an archive (--zip FILE)"),
        (("--out", "a", "--zip", "b"), "give a folder (--out DIR) or an archive (--zip FILE)"),
        (("--zip", "b", "--name", "{seed}"), "--name names the files of --out DIR"),
    ],
)
def test_a_folder_or_an_archive_is_asked_for(stage: Stage, made: Render, options: tuple[str, ...], words: str) -> None:
    refused = run(stage, "fetch", made.id, *options)
    assert refused.exit_code == 2
    assert words in refused.stderr


def test_the_command_says_what_is_missing(stage: Stage, tmp_path: Path) -> None:
    farm = stage.farm()
    render = farm.wait(farm.submit("a star", n=3))
    stage.services.objects.delete(picture_key(render.id, 1))

    done = run(stage, "fetch", render.id, "--zip", str(tmp_path / "made.zip"))

    assert done.exit_code == 1
    assert "1 picture missing (MISSING.txt in the archive says which), such as 000001-" in done.stderr
    Deletion(services=stage.services).render(render.id, lambda _: None)
    gone = run(stage, "fetch", render.id, "--zip", str(tmp_path / "gone.zip"))
    assert isinstance(gone.exception, NotFound)
