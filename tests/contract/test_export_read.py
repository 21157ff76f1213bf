"""Exports, read back by the libraries that people read them with."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from scheduler.export.plan import Sharding
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests.contract.datasets import FORMATS, exported, make, render_of, wanted
from tests.contract.renders import pictures, submit

#: The libraries are half of the work: pandas, datasets, torch.
pytestmark = pytest.mark.slow


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
    import webdataset  # here: it imports torch, which would take seconds in every process that collects tests

    for shard in shards:
        assert as_the_library_writes(webdataset, shard) == Path(shard).read_bytes()
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    made = [index for index in range(25) if index not in (3, 11)]
    assert len(shards) == done.shards == 3
    assert [sample["__key__"] for sample in samples] == [f"{index // 10:05d}{index % 10:04d}" for index in made]
    assert all(agrees(sample["json"], index, nothing="") for sample, index in zip(samples, made, strict=True))
    assert all(sample["txt"] == sample["json"]["prompt"] for sample in samples)
    assert [sample["png"].getpixel((0, 0)) for sample in samples] == [(index, 0, 90) for index in made]
    table = pyarrow.parquet.read_table(tmp_path / "set" / "00000.parquet").to_pylist()
    assert [row["status"] for row in table] == ["failed" if index == 3 else "success" for index in range(10)]
    assert table[3]["error"] == "the picture is black"
    stats = json.loads((tmp_path / "set" / "00001_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (10, 9, {"failed": 1, "success": 9})


def as_the_library_writes(webdataset: Any, shard: str) -> bytes:
    """Write the samples of a shard again with the library's own writer, without times."""
    written = io.BytesIO()
    with webdataset.TarWriter(written, encoder=False, compress=False, mtime=0) as writer:
        for sample in webdataset.WebDataset(shard, shardshuffle=False):
            writer.write({name: sample[name] for name in ("__key__", "json", "png", "txt")})
    return written.getvalue()


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


@pytest.mark.parametrize("layout", FORMATS)
def test_cancelled_pictures_are_not_called_failed(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path, layout: str
) -> None:
    render_id = render_of(farm, objects, 10, failing={3}, cancelled={4, 5})
    done = exported(database, objects, render_id, str(tmp_path / "set"), layout=layout)
    assert (done.pictures, done.failed, done.cancelled) == (7, 1, 2)
    [file] = (tmp_path / "set").rglob("00000_stats.json")
    stats = json.loads(file.read_text())
    assert (stats["count"], stats["successes"], stats["failed"], stats["cancelled"]) == (10, 7, 1, 2)
    listed = {file.name: len(file.read_text().splitlines()) for file in (tmp_path / "set").glob("00000_*.jsonl")}
    assert listed == ({"00000_failed.jsonl": 1, "00000_cancelled.jsonl": 2} if layout == "imagefolder" else {})


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


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_folder_of_parquet_is_read_as_it_is(
    farm: Jobs, database: Database, local: Settings, tmp_path: Path, hub: Any
) -> None:
    folder = str(tmp_path / "set")
    objects = open_objects(local)
    exported(database, objects, render_of(farm, objects, 25), folder, layout="parquet")

    everything = list(range(25))
    assert hub.load_dataset(folder, split="train")["index"][:] == everything
    assert hub.load_dataset("parquet", data_dir=folder, split="train")["index"][:] == everything
    assert pyarrow.parquet.read_table(folder)["index"].to_pylist() == everything


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_labels_that_readers_would_misread_arrive_all_the_same(
    farm: Jobs, database: Database, local: Settings, tmp_path: Path, hub: Any, layout: str
) -> None:
    labels: list[dict[str, Any]] = [
        {"source_file_name": "cat.jpg", "taken": "2024-01-31", "image": "theirs", "age": 3},
        {"source_file_name": "dog.jpg", "taken": "2024-02-01", "image": "theirs"},
        {"source_file_name": "cow.jpg", "taken": "long ago", "image": "theirs"},
    ]
    specs = [NewJob(spec=spec, labels=said) for spec, said in zip(pictures(3), labels, strict=True)]
    render_id = submit(farm, specs)
    objects = open_objects(local)
    make(farm, objects, 3)

    # Each in a shard of its own, any of which may be the one that a reader learns the columns from.
    exported(database, objects, render_id, str(tmp_path / "set"), layout=layout, sharding=Sharding(pictures=1))

    found = hub.load_dataset(layout, data_dir=str(tmp_path / "set"), split="train")
    rows = sorted(found, key=lambda row: row["index"])
    in_jsonl = layout == "imagefolder"
    assert [row["source_file_name_"] for row in rows] == ["cat.jpg", "dog.jpg", "cow.jpg"]
    assert [row["label_image"] for row in rows] == ["theirs"] * 3
    assert [json.loads(row["taken"]) if in_jsonl else row["taken"] for row in rows] == [
        said["taken"] for said in labels
    ]
    assert [row["age"] for row in rows] == (["3", "", ""] if in_jsonl else [3, None, None])
    assert all(isinstance(row["image"], Image.Image) for row in rows)


def late(farm: Jobs, objects: ObjectStore) -> str:
    """A render of which names and labels of every kind come late, or now and then."""
    said: list[tuple[str | None, dict[str, Any] | None]] = [(None, None)] * 7 + [
        ("first name", {"topic": "stars", "score": 0.5, "count": 3, "good": True, "taken": "2024-01-31"}),
        (None, {"taken": "long ago"}),
        ("second name", {"count": None}),
        (None, None),
    ]
    specs = [
        NewJob(spec=spec, custom_id=name, labels=labels)
        for spec, (name, labels) in zip(pictures(11), said, strict=True)
    ]
    render_id = submit(farm, specs)
    make(farm, objects, 11, failing={1})
    return render_id


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_comes_late_is_read_from_shards_whichever_comes_first(
    farm: Jobs, database: Database, local: Settings, tmp_path: Path, hub: Any
) -> None:
    objects = open_objects(local)
    folder = tmp_path / "set"
    exported(database, objects, late(farm, objects), str(folder), sharding=Sharding(pictures=6))
    shards = sorted(map(str, folder.glob("*.tar")))

    def read(files: list[str]) -> list[dict[str, Any]]:
        rows = hub.load_dataset("webdataset", data_files=files, split="train")
        return sorted((row["json"] for row in rows), key=lambda row: row["index"])

    everything = read(shards)
    assert len(shards) == 2
    assert everything == read(shards[::-1]) == read(shards[:1]) + read(shards[1:])
    assert [row["custom_id"] for row in everything] == [*[""] * 6, "first name", "", "second name", ""]
    # Text as it is; numbers that are not always given are JSON in text.
    told = [(row["topic"], row["score"], row["count"], row["good"], row["taken"]) for row in everything]
    assert told[6:8] == [("stars", "0.5", "3", "true", "2024-01-31"), ("", "", "", "", "long ago")]
    assert set(told[:6] + told[8:]) == {("",) * 5}


@pytest.mark.parametrize("layout", ["webdataset", "imagefolder", "parquet"])
@pytest.mark.parametrize("pictures_per_shard", [1, 4, 100])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_folder_of_any_export_is_read_with_its_pictures(
    farm: Jobs, database: Database, local: Settings, tmp_path: Path, hub: Any, layout: str, pictures_per_shard: int
) -> None:
    objects = open_objects(local)
    folder = tmp_path / "set"
    cut = Sharding(pictures=pictures_per_shard)
    exported(database, objects, late(farm, objects), str(folder), layout=layout, sharding=cut)

    rows = hub.load_dataset(str(folder), split="train")

    column = "png" if layout == "webdataset" else "image"
    seeds = [(row["json"] if layout == "webdataset" else row)["seed"] for row in rows]
    made = [index for index in range(11) if layout == "parquet" or index != 1]
    # An image folder's rows come in no order that could be told.
    assert (sorted(seeds) if layout == "imagefolder" else seeds) == made
    found = {seed: row[column].getpixel((0, 0)) for seed, row in zip(seeds, rows, strict=True) if row[column]}
    assert found == {seed: (seed, 0, 90) for seed in range(11) if seed != 1}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_card_of_a_dataset_is_left_as_people_write_it(
    farm: Jobs, database: Database, local: Settings, tmp_path: Path
) -> None:
    objects = open_objects(local)
    card = tmp_path / "set" / "README.md"
    render_id = render_of(farm, objects, 2)
    exported(database, objects, render_id, str(tmp_path / "set"))
    written = card.read_text() + "Kittens, mostly.\n"
    card.write_text(written)
    exported(database, objects, render_id, str(tmp_path / "set"))
    assert card.read_text() == written
