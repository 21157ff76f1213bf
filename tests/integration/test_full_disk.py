"""A disk that is full stops the work with a clear word, and the work goes on when there is room again."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.services import open_services
from storage.errors import DatabaseProblem
from storage.rules.states import State
from tests.integration.farm import Farm
from tests.servers import eventually

pytestmark = pytest.mark.parametrize("stores", ["sqlite+folder"], indirect=True)


@dataclass(frozen=True)
class SmallDisk:
    """A file system of a few megabytes."""

    folder: Path

    def fill(self) -> None:
        """To the last byte, whoever else writes meanwhile."""
        with (self.folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        assert shutil.disk_usage(self.folder).free == 0

    def make_room(self) -> None:
        (self.folder / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_for_pictures_is_waited_for(farm: Farm, disk: SmallDisk) -> None:
    objects = {"FARM_OBJECTS_URL": str(disk.folder / "objects")}
    services = open_services(farm.settings.model_copy(update={"objects_url": objects["FARM_OBJECTS_URL"]}))
    services.objects.check()
    farm.workers(1, **objects)
    disk.fill()
    render_id = farm.submit(40, model="quick")

    eventually(lambda: farm.services.workers.all()[0].trouble, "the worker tells what it waits for")
    assert "No space left on device" in str(farm.services.workers.all()[0].trouble)
    disk.make_room()

    assert farm.finished(render_id).done == 40
    assert {row.attempt for row in farm.rows(render_id)} == {1}
    assert len(list(services.objects.list(f"renders/{render_id}/"))) == 40
    services.database.close()


def test_a_full_disk_under_the_database_refuses_what_is_new_and_loses_nothing_old(farm: Farm, disk: SmallDisk) -> None:
    file = disk.folder / "farm.db"
    file.write_bytes(Path(farm.services.database.url.removeprefix("sqlite:///")).read_bytes())
    address = f"sqlite:///{file}"
    farm.environment["FARM_DATABASE_URL"] = address
    elsewhere = farm.services
    farm.services = open_services(farm.settings.model_copy(update={"database_url": address}))
    elsewhere.database.close()
    farm.stack.callback(farm.services.database.close)
    supervisor = farm.workers(1)
    render_id = farm.submit(64, model="slow")
    farm.some_done(render_id)
    disk.fill()

    with pytest.raises(DatabaseProblem, match="disk is full"):
        farm.submit(20_000, model="quick", call=False)
    assert supervisor.poll() is None
    disk.make_room()

    assert farm.finished(render_id).done == 64
    farm.assert_sound(render_id)
    assert {render.id for render in farm.services.views.renders()} == {render_id}
    assert {row.state for row in farm.rows(render_id)} == {State.DONE}
