"""Exports that are repeated, followed, disturbed or refused."""

import json
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scheduler.export.plan import Sharding
from storage.database.connection import Database
from storage.errors import ExportProblem, InvalidInput, ObjectStoreProblem, ObjectStoreRefused
from storage.jobs.jobs import Jobs
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore, open_objects, open_place
from storage.renders.exports import Exports
from storage.renders.views import Views
from storage.settings import Settings
from tests.contract.datasets import contents, drawn, exported, make, render_of, wanted
from tests.contract.renders import submit
from tests.proxy import Mode, Proxy, proxy_loop
from tests.servers import eventually

LAYOUTS = ["webdataset", "parquet", "imagefolder"]


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


@pytest.mark.slow
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
    following.join(timeout=120)

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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_shard_whose_rows_have_changed_is_written_anew(
    farm: Jobs, database: Database, s3: Settings, tmp_path: Path, layout: str, place: str
) -> None:
    objects = open_objects(s3)
    render_id = render_of(farm, objects, 15, failing={3})
    settings = s3.model_copy(update={"home": tmp_path / "home"})
    to = f"{s3.objects_url}-exports/set" if place == "bucket" else str(tmp_path / "set")
    # Shards cut by their bytes: one more picture, and those after it stand elsewhere.
    cut = Sharding(bytes=len(drawn(1)) * 7)
    exported(database, objects, render_id, to, layout=layout, sharding=cut, settings=settings)
    farm.retry(render_id, quanta={"tiny": 8})
    make(farm, objects, 1)

    exported(database, objects, render_id, to, layout=layout, sharding=cut, settings=settings)

    exported(database, objects, render_id, str(tmp_path / "fresh"), layout=layout, sharding=cut)
    assert held(to, settings) == contents(tmp_path / "fresh")


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_bucket_that_goes_away_in_the_middle_is_completed_the_next_time(
    farm: Jobs, database: Database, s3: Settings, tmp_path: Path, layout: str
) -> None:
    objects = open_objects(s3)
    render_id = render_of(farm, objects, 25, failing={3})
    to = f"{s3.objects_url}-exports/set"
    with proxy_loop() as loop:
        cable = Proxy(loop, urlsplit(s3.s3_endpoint_url).port or 0)
        far = s3.model_copy(update={"home": tmp_path / "home", "s3_endpoint_url": f"http://127.0.0.1:{cable.port}"})

        with pytest.raises(ObjectStoreProblem, match=f"127.0.0.1:{cable.port}"):
            exported(
                *(database, objects, render_id, to), layout=layout, settings=far, show=lambda _: cable.set(Mode.CUT)
            )
        cable.set(Mode.PASS)
        exported(database, objects, render_id, to, layout=layout, settings=far)
        cable.close()

    exported(database, objects, render_id, str(tmp_path / "undisturbed"), layout=layout)
    assert held(to, s3) == contents(tmp_path / "undisturbed")


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
        with pytest.raises(InvalidInput, match="is waiting with 3 unfinished pictures; --follow"):
            exported(database, store, render_id, str(tmp_path / "set"))
        assert not (tmp_path / "set").exists()

    def test_a_folder_of_something_else(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path
    ) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "thesis.txt").write_text("mine")
        with pytest.raises(InvalidInput, match="holds no export"):
            exported(database, store, finished, str(tmp_path / "set"))
        assert contents(tmp_path / "set") == {"thesis.txt": b"mine"}

    def test_the_place_of_another_export(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path
    ) -> None:
        exported(database, store, finished, str(tmp_path / "set"))
        before = contents(tmp_path / "set")
        for other in ({"layout": "parquet"}, {"sharding": Sharding(pictures=3)}):
            with pytest.raises(InvalidInput, match="choose another"):
                exported(database, store, finished, str(tmp_path / "set"), **other)
        assert contents(tmp_path / "set") == before

    def test_a_bucket_with_something_else(self, farm: Jobs, database: Database, s3: Settings, tmp_path: Path) -> None:
        objects = open_objects(s3)
        render_id = render_of(farm, objects, 3)
        settings = s3.model_copy(update={"home": tmp_path / "home"})
        with pytest.raises(InvalidInput, match="holds no export"):
            exported(database, objects, render_id, str(s3.objects_url), settings=settings)

    def test_a_bucket_that_does_not_exist(
        self, database: Database, store: ObjectStore, finished: str, s3: Settings, tmp_path: Path
    ) -> None:
        settings = s3.model_copy(update={"home": tmp_path / "home"})
        with pytest.raises(ObjectStoreRefused, match="does not exist; create it or correct the address"):
            exported(database, store, finished, "s3://no-such-bucket/set", settings=settings)

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

    def test_a_gathered_file_that_is_another_objects_own(
        self, database: Database, store: ObjectStore, finished: str, tmp_path: Path
    ) -> None:
        """It is replaced, not written over: the store would have the wrong picture under the other key."""
        before = store.get(picture_key(finished, 3))
        gathered = tmp_path / "set" / ".export" / "00000.pictures"
        gathered.mkdir(parents=True)
        assert store.link(picture_key(finished, 3), gathered / "000000002.png")

        assert exported(database, store, finished, str(tmp_path / "set")).pictures == 5
        assert store.get(picture_key(finished, 3)) == before

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
        following.join(timeout=120)
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
    with pytest.raises(InvalidInput, match="unfinished export of render"):
        exports.begin(render_id=render_id, format="parquet", target="/a", options={"n": 2})
    exports.finish(first)
    assert [export.id for export in exports.unfinished()] == [second]
    # Its files may have been cleared away since.
    assert exports.begin(render_id=render_id, format="parquet", target="/a", options={"n": 2}) == first
    exports.finish(first)
    assert [exports.give_up(second), exports.give_up(second), exports.give_up(first)] == [True, False, False]
    assert exports.unfinished() == []
    assert Views(database).render(render_id).done == 1
