"""Exports, read back by the libraries that people read them with."""

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import webdataset
from PIL import Image

from scheduler.export.plan import Sharding
from storage.database import Database
from storage.errors import ExportProblem, InvalidInput, ObjectStoreProblem
from storage.exports import Exports
from storage.jobs import Jobs
from storage.objects import ObjectStore, open_objects, open_place, picture_key
from storage.settings import Settings
from storage.views import Views
from tests.contract.datasets import contents, drawn, exported, make, render_of, wanted
from tests.contract.renders import submit
from tests.servers import eventually

LAYOUTS = ["webdataset", "parquet", "imagefolder"]


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hugging Face's `datasets`, which must not look at any hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    return datasets


def agrees(row: dict[str, Any], index: int, *, nothing: object = None) -> bool:
    """Whether a row says what was asked for and made; `nothing` is how it says so."""
    [asked] = wanted(index + 1)[index:]
    labels = asked.labels or {}
    return bool(
        row["prompt"] == asked.spec.prompt
        and row["seed"] == asked.spec.seed
        and row["index"] == index
        and row["custom_id"] == asked.custom_id
        and row["topic"] == labels["topic"]
        and row["score"] == labels["score"]
        and json.loads(row["tags"]) == labels["tags"]
        and row["label_seed"] == labels.get("seed", nothing)
        and row["width"] == asked.spec.width
        and row["status"] == "success"
    )


# Its reader leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_every_picture_with_its_row(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = render_of(farm, objects, 25, failing={3, 11})

    done = exported(database, objects, render_id, str(tmp_path / "set"))

    shards = sorted(map(str, (tmp_path / "set").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    made = [index for index in range(25) if index not in (3, 11)]
    assert len(shards) == done.shards == 3
    assert [sample["__key__"] for sample in samples] == [f"{index // 10:05d}{index % 10:04d}" for index in made]
    assert all(agrees(sample["json"], index) for sample, index in zip(samples, made, strict=True))
    assert all(sample["txt"] == sample["json"]["prompt"] for sample in samples)
    assert [sample["png"].getpixel((0, 0)) for sample in samples] == [(index, 0, 90) for index in made]
    table = pyarrow.parquet.read_table(tmp_path / "set" / "00000.parquet").to_pylist()
    assert [row["status"] for row in table] == ["failed" if index == 3 else "success" for index in range(10)]
    assert table[3]["error"] == "the picture is black"
    stats = json.loads((tmp_path / "set" / "00001_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (10, 9, {"failed": 1, "success": 9})


def test_an_image_folder_is_read_with_all_columns(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path, hub: Any
) -> None:
    render_id = render_of(farm, objects, 25, failing={3})

    exported(database, objects, render_id, str(tmp_path / "set"), layout="imagefolder")

    rows = hub.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train")
    by_index = {row["index"]: row for row in rows}
    assert sorted(by_index) == [index for index in range(25) if index != 3]
    assert all(agrees(row, index, nothing="") for index, row in by_index.items())
    assert all(row["image"].getpixel((0, 0)) == (index, 0, 90) for index, row in by_index.items())
    [failed] = (tmp_path / "set" / "00000_failed.jsonl").read_text().splitlines()
    assert (json.loads(failed)["index"], json.loads(failed)["error"]) == (3, "the picture is black")


def test_parquet_is_read_with_its_pictures(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path, hub: Any
) -> None:
    render_id = render_of(farm, objects, 25, failing={3})

    exported(database, objects, render_id, str(tmp_path / "set"), layout="parquet")

    files = sorted(map(str, (tmp_path / "set").glob("*.parquet")))
    rows = list(hub.load_dataset("parquet", data_files=files, split="train"))
    assert [row["index"] for row in rows] == list(range(25))
    assert [index for index, row in enumerate(rows) if row["image"] is None] == [3]
    made = [row for row in rows if row["image"] is not None]
    assert all(isinstance(row["image"], Image.Image) and agrees(row, row["index"]) for row in made)
    assert [row["image"].getpixel((0, 0)) for row in made] == [(row["index"], 0, 90) for row in made]
    # One schema in all shards, though the only label called `seed` is in the first.
    assert len({str(pyarrow.parquet.read_schema(file)) for file in files}) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_same_render_gives_the_same_files(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path, layout: str
) -> None:
    render_id = render_of(farm, objects, 25, failing={3})
    for name in ("one", "two"):
        exported(database, objects, render_id, str(tmp_path / name), layout=layout)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_shards_may_be_cut_by_their_bytes(farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path) -> None:
    render_id = render_of(farm, objects, 20)
    each = len(drawn(1))

    exported(database, objects, render_id, str(tmp_path / "set"), sharding=Sharding(bytes=each * 7))

    stats = [json.loads(file.read_text()) for file in sorted((tmp_path / "set").glob("*_stats.json"))]
    assert sum(shard["count"] for shard in stats) == 20
    assert all(shard["bytes"] <= each * 7 for shard in stats)


def test_shards_are_written_while_the_render_runs(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    render_id = submit(farm, wanted(25))
    folder = tmp_path / "set"
    following = threading.Thread(
        target=exported, args=(database, objects, render_id, str(folder)), kwargs={"follow": True}
    )
    following.start()
    make(farm, objects, 16)
    eventually(lambda: (folder / "00000_stats.json").exists(), "the first shard is written")
    assert not (folder / "00001_stats.json").exists()
    assert [export.render_id for export in Exports(database).unfinished()] == [render_id]

    make(farm, objects, 9)
    following.join(timeout=20)

    assert not following.is_alive()
    assert Exports(database).unfinished() == []
    exported(database, objects, render_id, str(tmp_path / "after"))
    assert contents(folder) == contents(tmp_path / "after")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_bucket_gets_the_same_files_as_a_folder(
    farm: Jobs, database: Database, s3: Settings, tmp_path: Path, layout: str
) -> None:
    objects = open_objects(s3)
    render_id = render_of(farm, objects, 15, failing={3})
    settings = s3.model_copy(update={"home": tmp_path / "home"})
    to = f"{s3.objects_url}-exports/set"

    exported(database, objects, render_id, str(tmp_path / "set"), layout=layout)
    exported(database, objects, render_id, to, layout=layout, settings=settings)

    assert held(to, settings) == contents(tmp_path / "set")
    assert not any((tmp_path / "home" / "exports").iterdir())


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_shard_whose_rows_have_changed_is_written_anew(
    farm: Jobs, database: Database, local: Settings, tmp_path: Path
) -> None:
    objects = open_objects(local)
    render_id = render_of(farm, objects, 15, failing={3})
    exported(database, objects, render_id, str(tmp_path / "set"))
    farm.retry(render_id, quanta={"tiny": 8})
    make(farm, objects, 1)

    exported(database, objects, render_id, str(tmp_path / "set"))

    exported(database, objects, render_id, str(tmp_path / "fresh"))
    assert contents(tmp_path / "set") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_file_that_somebody_took_away_is_written_again(
    farm: Jobs, database: Database, s3: Settings, tmp_path: Path, layout: str, place: str
) -> None:
    objects = open_objects(s3)
    render_id = render_of(farm, objects, 15, failing={3})
    settings = s3.model_copy(update={"home": tmp_path / "home"})
    to = f"{s3.objects_url}-exports/set" if place == "bucket" else str(tmp_path / "set")
    exported(database, objects, render_id, to, layout=layout, settings=settings)
    whole = held(to, settings)
    lost = next(name for name in sorted(whole) if name.endswith((".tar", ".parquet", ".png")))
    if place == "bucket":
        open_place(to, settings).delete(lost)
    else:
        (tmp_path / "set" / lost).unlink()

    exported(database, objects, render_id, to, layout=layout, settings=settings)

    assert held(to, settings) == whole


def held(to: str, settings: Settings) -> dict[str, bytes]:
    if not to.startswith("s3://"):
        return contents(Path(to))
    place = open_place(to, settings)
    return {name: place.get(name) for name in place.list()}


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.fixture
def finished(farm: Jobs, local: Settings) -> str:
    return render_of(farm, open_objects(local), 5)


@pytest.fixture
def store(local: Settings) -> ObjectStore:
    return open_objects(local)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
class TestWhatIsRefused:
    def test_a_render_that_runs(self, farm: Jobs, database: Database, store: ObjectStore, tmp_path: Path) -> None:
        render_id = submit(farm, wanted(3))
        with pytest.raises(InvalidInput, match="is running, 3 pictures to go; --follow"):
            exported(database, store, render_id, str(tmp_path / "set"))
        assert not (tmp_path / "set").exists()

    def test_a_folder_of_something_else(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path
    ) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "thesis.txt").write_text("mine")
        with pytest.raises(InvalidInput, match="something else already"):
            exported(database, store, finished, str(tmp_path / "set"))
        assert contents(tmp_path / "set") == {"thesis.txt": b"mine"}

    def test_the_place_of_another_export(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path
    ) -> None:
        exported(database, store, finished, str(tmp_path / "set"))
        before = contents(tmp_path / "set")
        for other in ({"layout": "parquet"}, {"sharding": Sharding(pictures=3)}):
            with pytest.raises(InvalidInput, match="go on with the same, or choose another place"):
                exported(database, store, finished, str(tmp_path / "set"), **other)
        assert contents(tmp_path / "set") == before

    def test_a_bucket_with_something_else(self, farm: Jobs, database: Database, s3: Settings, tmp_path: Path) -> None:
        objects = open_objects(s3)
        render_id = render_of(farm, objects, 3)
        settings = s3.model_copy(update={"home": tmp_path / "home"})
        with pytest.raises(InvalidInput, match="something else already"):
            exported(database, objects, render_id, str(s3.objects_url), settings=settings)

    def test_a_folder_that_is_a_file(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path
    ) -> None:
        (tmp_path / "set").write_text("a file")
        with pytest.raises(ExportProblem, match="cannot be written to"):
            exported(database, store, finished, str(tmp_path / "set"))

    @pytest.mark.parametrize(("data", "says"), [(b"other bytes", "damaged"), (None, "missing")])
    def test_a_picture_that_is_not_what_was_stored(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path, data: bytes | None, says: str
    ) -> None:
        key = picture_key(finished, 2)
        whole = store.get(key)
        store.delete(key)
        if data is not None:
            store.put(key, data)

        with pytest.raises(ObjectStoreProblem, match=f"job {finished}-000002: .* is {says}"):
            exported(database, store, finished, str(tmp_path / "set"))

        assert not list((tmp_path / "set").glob("*.tar"))
        store.delete(key)
        store.put(key, whole)
        assert exported(database, store, finished, str(tmp_path / "set")).pictures == 5

    def test_a_place_that_vanishes_is_completed_the_next_time(
        self, farm: Jobs, database: Database, store: ObjectStore, tmp_path: Path
    ) -> None:
        render_id = submit(farm, wanted(25))
        make(farm, store, 16)
        folder, gone = tmp_path / "set", tmp_path / "gone"
        met: list[ExportProblem] = []

        def follow() -> None:
            try:
                exported(database, store, render_id, str(folder), follow=True)
            except ExportProblem as error:
                met.append(error)

        following = threading.Thread(target=follow)
        following.start()
        eventually(lambda: (folder / "00000_stats.json").exists(), "the first shard is written")
        folder.rename(gone)
        make(farm, store, 9)
        following.join(timeout=20)
        assert [str(folder) in str(error) for error in met] == [True]

        exported(database, store, render_id, str(folder))
        exported(database, store, render_id, str(tmp_path / "undisturbed"))
        assert contents(folder) == contents(tmp_path / "undisturbed")


def test_exports_that_were_begun_are_known_until_they_are_finished_or_given_up(
    farm: Jobs, database: Database, local: Settings
) -> None:
    render_id = render_of(farm, open_objects(local), 1)
    exports = Exports(database)
    first = exports.begin(render_id=render_id, format="parquet", target="/a", options={"n": 1})
    second = exports.begin(render_id=render_id, format="parquet", target="/b", options={"n": 1})

    assert exports.begin(render_id=render_id, format="parquet", target="/a", options={"n": 1}) == first
    with pytest.raises(InvalidInput, match="begun with"):
        exports.begin(render_id=render_id, format="parquet", target="/a", options={"n": 2})
    exports.finish(first)
    assert [export.id for export in exports.unfinished()] == [second]
    assert [exports.give_up(second), exports.give_up(second), exports.give_up(first)] == [True, False, False]
    assert exports.unfinished() == []
    assert Views(database).render(render_id).done == 1
