"""How many workers a CPU gets and how many threads each: from cores, memory, models and what the user says."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from storage.errors import BadSettings
from storage.settings import read_settings
from storage.spec.loaded_size import loaded_bytes
from storage.spec.model_files import SHIPPED
from storage.spec.models import DiffusersModel
from storage.spec.registry import Registry, parse_registry
from worker.devices import Device
from worker.process import cpu_share
from worker.process.cores import usable_cores, usable_memory
from worker.process.cpu_plan import plan_cpu
from worker.process.cpu_share import CpuShare, share_cpu
from worker.process.identity import THREADS

GIB, MIB = 2**30, 2**20
SMALL, LARGE = {"shapes": 16 * MIB, "simulated": 0}, {"shapes": 16 * MIB, "sd": 4 * GIB}

# -- the plan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "memory", "models", "threads", "expected"),
    [
        (2, 16 * GIB, SMALL, None, (2, 1, "a worker for each core")),
        (1, 16 * GIB, SMALL, None, (1, 1, "a worker for each core")),
        (16, 256 * GIB, SMALL, None, (16, 1, "a worker for each core")),
        (64, 256 * GIB, SMALL, None, (16, 4, "16 at most")),
        (40, 256 * GIB, SMALL, 2, (16, 2, "16 at most")),
        (64, 8 * GIB, SMALL, None, (5, 12, "enough for 5")),
        # Half of the memory is theirs: 816 MiB each.
        (8, 4 * GIB, SMALL, None, (2, 4, "4.0 GiB of free memory are enough for 2")),
        (8, 10 * GIB, SMALL, None, (6, 1, "10.0 GiB of free memory are enough for 6")),
        (4, 100 * MIB, SMALL, None, (1, 4, "0.1 GiB of free memory are enough for 1")),
        # The next picture of a large model does not wait for one thread.
        (16, 256 * GIB, LARGE, None, (1, 16, "sd is large")),
        (16, 256 * GIB, SMALL | {"unknown": None}, None, (1, 16, "the size of unknown is not known yet")),
        # What the user says, within what is there.
        (8, 64 * GIB, SMALL, 2, (4, 2, "a worker for each core")),
        (2, 64 * GIB, SMALL, 16, (1, 16, "a worker for each core")),
        (8, 4 * GIB, SMALL, 2, (2, 2, "enough for 2")),
        (16, 256 * GIB, LARGE, 3, (1, 3, "sd is large")),
    ],
)
def test_small_models_get_a_worker_for_each_core_and_large_ones_all_threads(
    cores: int, memory: int, models: Mapping[str, int | None], threads: int | None, expected: tuple[int, int, str]
) -> None:
    plan = plan_cpu(cores=cores, memory=memory, models=models, threads=threads)
    assert (plan.workers, plan.threads) == expected[:2]
    assert expected[2] in plan.because


def test_the_size_of_a_model_is_that_of_its_numbers_as_a_cpu_loads_them(tmp_path: Path) -> None:
    shapes = DiffusersModel(alias="a", kind="diffusers", source="shipped:shapes")
    stored = sum(file.stat().st_size for file in (SHIPPED / "shapes").glob("*/*.safetensors"))
    # In half precision, with headers of some kilobytes.
    assert 0.95 * stored < (half := loaded_bytes(shapes.model_copy(update={"dtype": "float16"})) or 0) < stored
    assert loaded_bytes(shapes) == 2 * half
    silhouette = parse_registry(
        '[models.a]\nkind = "diffusers"\nsource = "shipped:shapes"\ncontrolnets = ["shipped:shapes-silhouette"]',
        where="here",
    )["a"]
    assert (loaded_bytes(silhouette) or 0) > 2 * half + 5_000_000
    assert loaded_bytes(shapes.model_copy(update={"source": str(tmp_path)})) is None
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"no such file")
    assert loaded_bytes(shapes.model_copy(update={"source": str(tmp_path)})) is None


# -- the machine -----------------------------------------------------------------------------------------------


def laid_out(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("allowed", "groups", "files", "expected"),
    [
        ({0, 1, 2, 3}, "0::/\n", {}, 4),
        ({1, 3}, "0::/\n", {}, 2),
        # Two threads of one core.
        ({0, 1, 2, 3}, "", {f"cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)}, 2),
        # v2: of the group, or of one above it.
        ({0, 1, 2, 3}, "0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ({0, 1, 2, 3}, "0::/\n", {"cpu.max": "max 100000\n"}, 4),
        ({0, 1, 2, 3}, "0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ({0, 1, 2, 3}, "0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        # v1, named as its own machine names it, and as a container sees it.
        ({0, 1, 2, 3}, "2:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
        ({0, 1, 2, 3}, "2:cpu:/far/a\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({0, 1, 2, 3}, "2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({0, 1}, "2:memory:/\n1:name=systemd:/\n", {"cpu.max": "100000 100000\n"}, 2),
    ],
)
def test_the_cores_are_those_that_this_process_may_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[int],
    groups: str,
    files: Mapping[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    laid_out(tmp_path, {"groups": groups, **files})
    assert usable_cores(cpus=tmp_path, groups=tmp_path / "groups", mount=tmp_path) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 8 * GIB),
        ("0::/\n", {"memory.max": "max", "memory.current": "5"}, 8 * GIB),
        ("0::/\n", {"memory.max": f"{2 * GIB}", "memory.current": f"{GIB}"}, GIB),
        # What is cached makes way.
        (
            "0::/\n",
            {"memory.max": f"{2 * GIB}", "memory.current": f"{GIB}", "memory.stat": f"anon 7\ninactive_file {GIB}\n"},
            2 * GIB,
        ),
        ("0::/a\n", {"memory.max": f"{2 * GIB}", "memory.current": f"{3 * GIB}"}, 0),
        (
            "4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": f"{3 * GIB}", "memory/a/memory.usage_in_bytes": f"{GIB}"},
            2 * GIB,
        ),
        (
            "4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "9223372036854771712", "memory/a/memory.usage_in_bytes": f"{GIB}"},
            8 * GIB,
        ),
    ],
)
def test_the_memory_is_what_machine_and_group_leave(
    tmp_path: Path, groups: str, files: Mapping[str, str], expected: int
) -> None:
    meminfo = f"MemTotal: 99999999 kB\nMemAvailable: {8 * 2**20} kB\n"
    laid_out(tmp_path, {"groups": groups, "meminfo": meminfo, **files})
    assert usable_memory(meminfo=tmp_path / "meminfo", groups=tmp_path / "groups", mount=tmp_path) == expected


def test_this_machine_has_cores_and_memory() -> None:
    assert usable_cores() >= 1
    assert usable_memory() > 0


# -- what the settings say -------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Registry:
    return parse_registry('[models.shapes]\nkind = "diffusers"\nsource = "shipped:shapes"', where="here")


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_share, "usable_cores", lambda: 4)
    monkeypatch.setattr(cpu_share, "usable_memory", lambda: 64 * GIB)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def cpus(*numbers: int) -> list[Device]:
    return [Device("cpu", number) for number in numbers]


@pytest.mark.parametrize(
    ("devices", "by_user", "expected", "threads", "reserves"),
    [
        ("cpu", "", cpus(0, 1, 2, 3), 1, cpus(1, 2, 3)),
        # Named one by one, they are those, at once, and share the cores.
        ("cpu:0", "", cpus(0), 4, []),
        ("cpu:0,cpu:1", "", cpus(0, 1), 2, []),
        ("cpu:1,cpu:0,cpu:2,cpu:3,cpu:4", "", cpus(1, 0, 2, 3, 4), 1, []),
        # The user's number of threads is obeyed, and nobody chooses another.
        ("cpu", "2", cpus(0, 1), None, cpus(1)),
        ("cpu", "2,1", cpus(0, 1), None, cpus(1)),
        ("cpu:0", "3", cpus(0), None, []),
        ("cpu", "many", cpus(0, 1, 2, 3), 1, cpus(1, 2, 3)),
        ("simulated:0", "", [Device("simulated", 0)], None, []),
    ],
)
def test_what_is_named_by_number_is_what_is_served_and_the_rest_is_found_out(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    devices: str,
    by_user: str,
    expected: list[Device],
    threads: int | None,
    reserves: list[Device],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", by_user)
    found, share = share_cpu(read_settings(devices=devices), registry)
    assert (found, share.threads, list(share.reserves)) == (expected, threads, reserves)


def test_what_was_decided_is_logged_with_its_reason(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        share_cpu(read_settings(devices="cpu"), registry)
    [record] = [record for record in caplog.records if record.message == "CPU shared out"]
    assert record.__dict__.items() >= {"cores": 4, "workers": 4, "threads": 1}.items()
    assert "a worker for each core" in record.__dict__["because"]


def test_a_cpu_cannot_be_named_both_ways(registry: Registry) -> None:
    with pytest.raises(BadSettings, match="without duplicates"):
        share_cpu(read_settings(devices="cpu,cpu:0"), registry)


def test_a_worker_hears_its_threads_and_other_devices_none() -> None:
    share = CpuShare(threads=3)
    assert share.environment(Device("cpu", 0)) == {THREADS: "3", "OMP_NUM_THREADS": "3"}
    assert share.environment(Device("cuda", 0)) == {THREADS: ""}
    # The user's own variable is inherited as it is.
    assert CpuShare(threads=None).environment(Device("cpu", 0)) == {THREADS: ""}


@pytest.mark.parametrize("given", ["abc", "0", "-3", ",2"])
def test_threads_that_are_no_number_are_said_to_be_ignored(
    given: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert cpu_share.threads_by_the_user() is None
    [record] = caplog.records
    assert "OMP_NUM_THREADS is ignored" in record.getMessage()
