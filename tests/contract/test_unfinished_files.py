"""What killed writers and exports leave is removed, and nothing that a living one writes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.background.unfinished_removal import UnfinishedRemoval
from scheduler.export.targets import open_target
from storage.errors import ObjectStoreProblem
from storage.objects.folder import LocalObjects
from storage.objects.store import ObjectStore
from storage.settings import Settings

KEY = "renders/k7m2/000000.png"
PICTURE = b"a picture"
#: Stores a picture; says when all is written but its name, and goes on when it is told to.
_WRITER = """
import sys
from pathlib import Path
from storage.objects.folder import LocalObjects

def wait_before_the_name(event, _):
    if event == "os.link":
        print("written", flush=True)
        sys.stdin.readline()

sys.addaudithook(wait_before_the_name)
LocalObjects(Path(sys.argv[1])).put(sys.argv[2], b"a picture")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@contextmanager
def writing(folder: Path, key: str = KEY) -> Iterator[subprocess.Popen[str]]:
    """A process that has written a picture and not named it yet."""
    command = [sys.executable, "-c", _WRITER, str(folder), key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process


def killed(folder: Path, key: str = KEY) -> Path:
    """What a writer leaves that is killed before its picture has a name."""
    before = set(unfinished(folder))
    with writing(folder, key) as process:
        os.kill(process.pid, signal.SIGKILL)
    [left] = set(unfinished(folder)) - before
    assert left.read_bytes() == PICTURE
    return left


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".new-*"))


def age(path: Path, *, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_what_a_killed_writer_left_is_removed_when_it_is_a_day_old(folder: Path) -> None:
    old, young = killed(folder), killed(folder)
    removal = UnfinishedRemoval(objects=LocalObjects(folder))
    age(young, hours=23)
    assert removal.run_once() == 0
    age(old, hours=25)
    assert removal.run_once() == 1
    assert unfinished(folder) == [young]


def test_a_picture_that_is_being_written_is_left_alone(folder: Path) -> None:
    age(killed(folder), hours=25)
    with writing(folder) as process:
        assert UnfinishedRemoval(objects=LocalObjects(folder)).run_once() == 1
        _, said = process.communicate("\n")
        assert (process.returncode, said) == (0, "")
    assert LocalObjects(folder).get(KEY) == PICTURE
    assert unfinished(folder) == []


def test_whoever_wakes_after_days_without_its_file_says_so_and_stores_its_picture_the_next_time(folder: Path) -> None:
    with writing(folder) as process:
        [left] = unfinished(folder)
        age(left, hours=25)
        assert UnfinishedRemoval(objects=LocalObjects(folder)).run_once() == 1
        _, said = process.communicate("\n")
        assert process.returncode == 1
        assert ObjectStoreProblem.__name__ in said.splitlines()[-1]
    assert LocalObjects(folder).put(KEY, PICTURE).bytes == len(PICTURE)


def test_pictures_and_files_of_others_are_left_however_old(folder: Path) -> None:
    objects = LocalObjects(folder)
    objects.put(KEY, PICTURE)
    (folder / "renders/notes.new-1").write_text("somebody's")
    for path in folder.rglob("*"):
        age(path, hours=1000)
    assert UnfinishedRemoval(objects=objects).run_once() == 0
    assert (folder / "renders/notes.new-1").exists()
    assert [*objects.list("renders/k")] == [KEY]


def test_in_a_store_where_nothing_is_left_there_is_nothing_to_remove(objects: ObjectStore) -> None:
    removal = UnfinishedRemoval(objects=objects)
    assert removal.run_once() == 0  # of a folder that does not exist yet, too
    objects.put(KEY, PICTURE)
    assert removal.run_once() == 0
    assert objects.get(KEY) == PICTURE


#: Claims a place for an export, and says so; then it is killed.
_EXPORT = """
import sys
from pathlib import Path
from scheduler.export.targets import open_target
from storage.settings import read_settings

with open_target(sys.argv[1], read_settings()).claim({"render": "k7m2"}) as working:
    (working / "00000.pictures").mkdir()
    print(working, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def exporting(to: str, settings: Settings) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in the middle of an export into a bucket, and its working folder."""
    environment = {
        **os.environ,
        "FARM_HOME": str(settings.home),
        "FARM_S3_ENDPOINT_URL": str(settings.s3_endpoint_url),
    }
    command = [sys.executable, "-c", _EXPORT, to]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def export_killed(to: str, settings: Settings, *, days: float) -> Path:
    with exporting(to, settings) as (process, working):
        os.kill(process.pid, signal.SIGKILL)
    age(working, hours=24 * days)
    return working


def test_what_killed_exports_left_on_this_machine_is_removed_by_others_after_a_week(
    s3: Settings, tmp_path: Path
) -> None:
    settings, to = s3.model_copy(update={"home": tmp_path}), f"{s3.objects_url}-exports"
    old, young = export_killed(f"{to}/old", settings, days=8), export_killed(f"{to}/young", settings, days=6)
    with exporting(f"{to}/living", settings) as (process, living):
        age(living, hours=24 * 8)
        with open_target(f"{to}/new", settings).claim({"render": "k7m2"}):
            assert not old.exists()
            assert young.is_dir()
            assert living.is_dir()
        process.communicate("\n")
        assert process.returncode == 0
    with open_target(f"{to}/old", settings).claim({"render": "k7m2"}) as working:
        assert working == old  # it is resumed all the same


def test_an_export_that_was_killed_long_ago_is_gone_on_with(s3: Settings, tmp_path: Path) -> None:
    settings, to = s3.model_copy(update={"home": tmp_path}), f"{s3.objects_url}-exports/set"
    left = export_killed(to, settings, days=30)
    with open_target(to, settings).claim({"render": "k7m2"}) as working:
        assert (working, (working / "00000.pictures").is_dir()) == (left, True)
        with open_target(f"{to}-2", settings).claim({"render": "k7m2"}):
            assert working.is_dir()
