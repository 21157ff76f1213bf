"""An export that is killed again and again, or whose disk fills up, ends with the files of an undisturbed one."""

from pathlib import Path

import pytest

from scheduler.export.plan import Sharding
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import open_objects
from storage.renders.exports import Exports
from storage.settings import Settings
from tests.contract.datasets import contents, exported, render_of
from tests.forks import Starter
from tests.integration.test_full_disk import SmallDisk, disk

__all__ = ["disk"]

#: Forks an export ten times, which kills itself as it opens or renames its n-th file; then one that ends. Prints how
#: many were killed.
_ROUNDS = """
import os, signal, sys
from pathlib import Path
from scheduler.export.plan import Sharding
from storage.database.connection import Database
from storage.objects.store import open_objects
from storage.settings import read_settings
from tests.contract.datasets import exported

render_id, layout, folder = sys.argv[1], sys.argv[2], sys.argv[3]

def export():
    settings = read_settings()
    exported(
        Database(settings.database), open_objects(settings), render_id, folder, layout=layout,
        sharding=Sharding(pictures=40),
    )

def die_at(n):
    left = [n]
    def hear(event, arguments):
        if event in ("open", "os.rename") and str(arguments[0]).startswith(folder):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hear)

killed = 0
for n in (1, 3, 4, 30, 45, 90, 48, 5, 70, 52):
    pid = os.fork()
    if pid == 0:
        die_at(n)
        export()
        os._exit(0)
    killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
export()
print(killed)
"""


@pytest.fixture
def database(sqlite: str) -> Database:
    return Database(sqlite)


@pytest.mark.parametrize("layout", ["webdataset", "parquet", "imagefolder"])
def test_an_export_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    database: Database, local: Settings, tmp_path: Path, starter: Starter, layout: str
) -> None:
    objects = open_objects(local)
    render_id = render_of(Jobs(database), objects, 300, failing={17, 200})
    environment = {"FARM_DATABASE_URL": database.url, "FARM_OBJECTS_URL": local.objects}

    told = starter.ran(["-c", _ROUNDS, render_id, layout, str(tmp_path / "killed")], folder=tmp_path, env=environment)

    assert told.returncode == 0, told.stderr
    assert int(told.stdout) == 10
    sharding = Sharding(pictures=40)
    exported(database, objects, render_id, str(tmp_path / "undisturbed"), layout=layout, sharding=sharding)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    assert Exports(database).unfinished() == []


def test_a_full_disk_stops_an_export_with_a_clear_word_and_it_goes_on_when_there_is_room(
    database: Database, local: Settings, disk: SmallDisk, tmp_path: Path, starter: Starter
) -> None:
    objects = open_objects(local)
    render_id = render_of(Jobs(database), objects, 60)
    environment = {"FARM_DATABASE_URL": database.url, "FARM_OBJECTS_URL": local.objects}
    command = ["-m", "scheduler.cli.main", "export", render_id, "--format", "webdataset"]
    command += ["--shard-size", "10", "--to", str(disk.folder / "set")]
    disk.fill()

    full = starter.ran(command, folder=tmp_path, env=environment)
    disk.make_room()
    room = starter.ran(command, folder=tmp_path, env=environment)

    assert full.returncode == 3
    assert "No space left on device" in full.stderr
    assert "the same command resumes" in full.stderr
    assert "Traceback" not in full.stderr
    assert (room.returncode, room.stderr) == (0, "")
    exported(database, objects, render_id, str(tmp_path / "undisturbed"))
    assert contents(disk.folder / "set") == contents(tmp_path / "undisturbed")
