"""Pictures in a folder: each under its name, and none in place of another's."""

from pathlib import Path

import pytest

from diffusion_farm.client import Picture
from scheduler.results.download import Downloads
from scheduler.results.file_names import FileNames
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore
from storage.renders.views import Views
from tests.contract.datasets import contents, drawn, render_of


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
    assert contents(folder) == {
        "000000-0.png": drawn(0),
        "000001-1.png": b"of another render",
        f"000001-1-{render_id}.png": drawn(1),
        "000002-2.png": drawn(2),
    }


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
