"""The devices of this machine, found without importing torch into this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.errors import BadSettings
from storage.settings import DEVICE

#: Device files of NVIDIA, AMD (ROCm) and WSL: without one, torch need not be asked for CUDA devices.
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_PROBE = """
import torch
print(*[f"cuda:{i}" for i in range(torch.cuda.device_count())]
      or (["mps:0"] if torch.backends.mps.is_available() else ["cpu"]))
"""


@dataclass(frozen=True)
class Device:
    """One device, as `farm-worker --devices` names it: cuda:0, mps:0, cpu:0 or simulated:0."""

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    def worker_name(self, machine: str) -> str:
        """Name the worker that is pinned to this device; unique as long as machine names are."""
        return f"{self.kind}-{self.index}@{machine}"

    def environment(self) -> dict[str, str]:
        """Return the variables that pin a process to this device, so that it sees no other CUDA device."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        ids = [name.strip() for name in visible.split(",")] if visible else []
        pinned = (ids[self.index] if self.index < len(ids) else str(self.index)) if self.kind == "cuda" else ""
        return {
            "FARM_DEVICES": str(self),
            "CUDA_VISIBLE_DEVICES": pinned,
            # OpenMP's threads spin while they wait for each other: beside another busy program, a batch on two cores
            # took 10 s instead of 0.3 s. Of no meaning to a worker with one thread.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }


def find_devices(wanted: str, *, cpu_workers: Callable[[], int] = lambda: 1) -> list[Device]:
    """Return the devices that `auto` or a list such as `cuda:0,cuda:1` names. Raises BadSettings.

    Args:
        cpu_workers: for how many workers the CPU is, where it is named without a number, or found by `auto`.
    """
    found = _detect() if wanted.strip() == "auto" else [name.strip() for name in wanted.split(",")]
    names = [one for name in found for one in ([f"cpu:{n}" for n in range(cpu_workers())] if name == "cpu" else [name])]
    matches = [DEVICE.fullmatch(name) for name in names]
    devices = [Device(kind=match[1], index=int(match[2] or 0)) for match in matches if match]
    if len(set(devices)) < len(names):
        raise BadSettings(
            f"FARM_DEVICES={wanted}: expected auto, or a list of cuda:N, mps, cpu and simulated:N without duplicates"
        )
    return devices


def _detect() -> list[str]:
    if sys.platform == "linux" and not any(Path(name).exists() for name in _GPU_FILES):
        return ["cpu"]
    # Asked in another process: the supervisor stays small and never holds a CUDA context.
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)  # noqa: S603
    if probe.returncode:
        reason = probe.stderr.strip().splitlines()[-1:] or ["torch gave no reason"]
        raise BadSettings(f"cannot detect devices: {reason[0]}; install diffusion-farm[worker] or set FARM_DEVICES")
    return probe.stdout.split()
