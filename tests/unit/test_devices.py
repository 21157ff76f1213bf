"""Which devices are served, and how a process is pinned to one."""

import pytest

from storage.errors import BadSettings
from worker.devices import Device, find_devices
from worker.rendering.open_backend import kinds_of


def test_devices_are_taken_from_a_list() -> None:
    assert find_devices("cuda:0, cuda:1,cpu") == [Device("cuda", 0), Device("cuda", 1), Device("cpu", 0)]


@pytest.mark.parametrize("wanted", ["", "gpu:0", "cuda:x", "cuda:0,cuda:0", "cpu,cpu:0", "cuda:-1", "auto,cpu"])
def test_what_is_no_list_of_devices_is_refused(wanted: str) -> None:
    with pytest.raises(BadSettings, match="FARM_DEVICES"):
        find_devices(wanted)


def test_a_process_sees_its_own_cuda_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment = Device("cuda", 1).environment()
    assert (environment["FARM_DEVICES"], environment["CUDA_VISIBLE_DEVICES"]) == ("cuda:1", "1")
    assert Device("cpu", 0).environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_devices_are_counted_among_those_that_the_machine_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f3a")
    assert [Device("cuda", i).environment()["CUDA_VISIBLE_DEVICES"] for i in (0, 1)] == ["4", "GPU-7f3a"]


def test_a_worker_is_named_after_device_and_machine() -> None:
    assert Device("cuda", 3).worker_name("node7") == "cuda-3@node7"


def test_a_simulated_device_renders_simulated_models_only() -> None:
    assert kinds_of(Device("simulated", 0)) == {"simulated"}
    assert kinds_of(Device("cpu", 0)) == {"simulated", "diffusers"}
