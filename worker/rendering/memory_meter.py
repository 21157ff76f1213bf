"""How much memory something takes at its most, on the device that pictures are rendered on."""

import contextlib
import ctypes
import gc
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.devices import Device

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: See proc_pid_clear_refs(5): resets the peak resident set size.
_RESET_PEAK = "5"


def is_there(device: Device) -> bool:
    """Tell whether PyTorch finds such a device, as the only one that this process sees."""
    if device.kind == "cuda":
        return torch.cuda.is_available()
    return device.kind == "cpu" or (device.kind == "mps" and torch.backends.mps.is_available())


@dataclass
class Peak:
    """Bytes above what was taken before; None where nobody tells."""

    n_bytes: int | None = None


@contextlib.contextmanager
def peak_memory(device: Device) -> Iterator[Peak]:
    """Measure what is done inside. On a CPU it is this process's resident memory, to some hundred kB."""
    peak = Peak()
    gc.collect()
    if device.kind == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        torch.cuda.synchronize()
        peak.n_bytes = torch.cuda.max_memory_allocated() - before
        return
    known = device.kind == "cpu" and _give_back_and_reset()
    before_cpu = _resident("VmRSS") if known else None
    yield peak
    if before_cpu is not None and (most := _resident("VmHWM")) is not None:
        peak.n_bytes = max(0, most - before_cpu)


def _give_back_and_reset() -> bool:
    """Have the heap give back what is free, and forget the peak until now; False where there is no way to."""
    with contextlib.suppress(OSError, AttributeError):
        # Otherwise what earlier pictures held is taken again without growing.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _resident(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
