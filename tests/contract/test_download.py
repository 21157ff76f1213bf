"""Pictures in a folder: each under its name, and none in place of another's."""

import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diffusion_farm.client import Picture
from scheduler.results import download
from scheduler.results.download import Downloads, prepare_folder
from scheduler.results.file_names import FileNames
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.views import Views
from storage.settings import Settings
from tests.contract.datasets import contents, drawn, render_of
from tests.contract.renders import at_once


def downloaded(database: Database, objects: ObjectStore, render_id: str, folder: Path) -> dict[int, Path]:
    folder.mkdir(exist_ok=True)
    downloads = Downloads(Views(database), objects, render_id, folder)
    while downloads.advance():
        pass
    return downloads.renamed


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_pictures_of_another_render_are_kept(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    render_id = render_of(farm, objects, 3)
    folder.mkdir()
    (folder / "000001-1.png").write_bytes(b"of another render")

    renamed = downloaded(database, objects, render_id, folder)
    again = downloaded(database, objects, render_id, folder)

    assert renamed == again == {1: folder / f"000001-1-{render_id}.png"}
    assert {name: data for name, data in contents(folder).items() if name.endswith(".png")} == {
        "000000-0.png": drawn(0),
        "000001-1.png": b"of another render",
        f"000001-1-{render_id}.png": drawn(1),
        "000002-2.png": drawn(2),
    }


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_a_killed_download_left_is_removed_when_it_is_a_day_old(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 1)
    old, young, other = (f"{render_id}-000000-0123abcd.part", f"{render_id}-000000-4567abcd.part", "mine.part")
    for name, hours in ((old, 25), (young, 23), (other, 1000)):
        (tmp_path / name).write_bytes(b"half")
        then = time.time() - 3600 * hours
        os.utime(tmp_path / name, (then, then))
    downloaded(database, objects, render_id, tmp_path)
    assert {path.name for path in tmp_path.glob("*.part")} == {young, other}
    assert (tmp_path / "000000-0.png").read_bytes() == drawn(0)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_is_there_is_not_fetched_again(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 5)
    (tmp_path / "000003-3.png").write_bytes(drawn(3)[:9])  # as a copy that was cut off
    shown: list[int] = []

    def fetched() -> tuple[int, int]:
        downloads = Downloads(Views(database), objects, render_id, tmp_path)
        downloads.fetch_finished(shown.append)
        return downloads.written, downloads.found

    assert fetched() == (5, 0)
    (tmp_path / "000001-1.png").unlink()
    assert fetched() == (1, 4)
    assert shown == [1, 2, 3, 4, 5] * 2
    assert (tmp_path / f"000003-3-{render_id}.png").read_bytes() == drawn(3)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_pictures_of_one_name_get_their_jobs_names_and_keep_them(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 20)
    for _ in range(2):
        downloads = Downloads(Views(database), objects, render_id, tmp_path, names=FileNames("{model}/{render}"))
        downloads.fetch_finished(lambda _: None)
        assert len(downloads.renamed) == 19
    kept = contents(tmp_path / "tiny")
    assert len(kept) == 20
    assert {*kept.values()} == {drawn(index) for index in range(20)}
    [first] = {*kept} - {f"{render_id}-{render_id}-{index:06d}.png" for index in range(20)}
    assert first == f"{render_id}.png"


@pytest.fixture
def noted(farm: Jobs, local: Settings) -> str:
    """A render of three labelled pictures, of which one failed."""
    return render_of(farm, open_objects(local), 4, failing={2})


def index_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]


def fetch(database: Database, local: Settings, render_id: str, folder: Path, pattern: str | None = None) -> None:
    names = None if pattern is None else FileNames(pattern)
    prepare_folder(folder)
    Downloads(Views(database), open_objects(local), render_id, folder, names=names).fetch_finished(lambda _: None)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_an_index_says_of_each_file_what_it_shows(
    database: Database, local: Settings, noted: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fetch(database, local, noted, out, "{model}/{index}")
    jobs = {job.id: job for job in Views(database).jobs(noted)}

    told = index_of(out)

    assert [one["file"] for one in told] == ["tiny/0.png", "tiny/1.png", "tiny/3.png"]
    for one in told:
        job = jobs[one["job"]]
        assert one["sha256"] == hashlib.sha256((out / one["file"]).read_bytes()).hexdigest() == job.sha256
        assert (one["seed"], one["prompt"], one["custom_id"]) == (job.spec.seed, job.spec.prompt, job.custom_id)
        assert (one["labels"], one["pixels_sha256"]) == (job.labels, job.pixels_sha256)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_an_index_is_resumed_and_grows_with_a_second_render(
    farm: Jobs, database: Database, local: Settings, noted: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fetch(database, local, noted, out)
    index = out / "pictures.jsonl"
    whole = index.read_bytes()
    fetch(database, local, noted, out)
    assert index.read_bytes() == whole

    # As a process leaves it that is killed while it writes; and another one's words for a picture.
    index.write_bytes(whole[: len(whole) // 2])
    fetch(database, local, noted, out)
    assert sorted(one["job"] for one in index_of(out)) == sorted({one["job"] for one in index_of(out)})
    assert len(index_of(out)) == 3

    before = index.read_bytes()
    other = render_of(farm, open_objects(local), 2)
    fetch(database, local, other, out)
    assert index.read_bytes().startswith(before)
    assert [one["job"].split("-")[0] for one in index_of(out)] == [noted] * 3 + [other] * 2


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_two_downloads_at_once_note_each_picture_once(
    database: Database, local: Settings, noted: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    at_once(*[partial(fetch, database, local, noted, out)] * 4)

    assert len(index_of(out)) == len({(one["job"], one["file"]) for one in index_of(out)})
    assert sorted(contents(out)) == ["000000-0.png", "000001-1.png", "000003-3.png", "pictures.jsonl"]
    assert {one["job"] for one in index_of(out)} == {f"{noted}-{index:06d}" for index in (0, 1, 3)}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_download_that_another_one_overtakes_finds_its_picture(
    database: Database, local: Settings, noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    placed = download._placed

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(download, "_placed", placed)
        fetch(database, local, noted, out)
        return placed(*arguments)

    monkeypatch.setattr(download, "_placed", overtaken)
    downloads = Downloads(Views(database), open_objects(local), noted, out)
    file = downloads.fetch(Views(database).job(f"{noted}-000000"))

    assert (file.name, downloads.written, downloads.found) == ("000000-0.png", 0, 1)
    assert sorted(contents(out)) == ["000000-0.png", "000001-1.png", "000003-3.png", "pictures.jsonl"]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_file_of_somebodys_own_is_no_index_and_stays(
    database: Database, local: Settings, noted: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = b'{"prompt": "a cat"}\n'
    (out / "pictures.jsonl").write_bytes(mine)
    fetch(database, local, noted, out)

    assert (out / "pictures.jsonl").read_bytes() == mine
    assert len((out / f"pictures-{noted}.jsonl").read_text().splitlines()) == 3


def test_the_client_keeps_what_is_there_too(tmp_path: Path) -> None:
    def picture(job: str, data: bytes) -> Picture:
        return Picture(job=job, index=4, seed=7, prompt="a star", data=data)

    first = picture("aaaaaaaaaaaa-000004", b"one").save(tmp_path)
    other = picture("bbbbbbbbbbbb-000004", b"two").save(tmp_path)
    again = [
        picture("aaaaaaaaaaaa-000004", b"one").save(tmp_path),
        picture("bbbbbbbbbbbb-000004", b"two").save(tmp_path),
    ]

    assert (first.name, other.name) == ("000004-7.png", "000004-7-bbbbbbbbbbbb.png")
    assert again == [first, other]
    assert contents(tmp_path) == {first.name: b"one", other.name: b"two"}
