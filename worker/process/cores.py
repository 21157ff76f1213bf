"""What of this machine's processor and memory a process may use: by its affinity and its cgroups (v1 and v2)."""

import os
from collections.abc import Iterator
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_MEMORY = Path("/proc/meminfo")
#: What cgroups v1 say where there is no limit is near the largest number; no machine has so much.
_UNLIMITED = 2**60


def usable_cores(*, cpus: Path = _CPUS, groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Return how many cores compute for this process at once: threads of one core count once; at least 1."""
    # macOS has no affinity, and its cores no second threads.
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = len({_siblings(cpus, number) for number in allowed})
    quotas = [quota for folder in _folders(groups, mount, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, int(min([cores, *quotas])))


def usable_memory(*, meminfo: Path = _MEMORY, groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Return how many bytes are free for this process and those that it starts; where nobody tells, half of all."""
    rooms = [room for folder in _folders(groups, mount, "memory") if (room := _room(folder)) is not None]
    return max(0, min([_available(meminfo), *rooms]))


def _available(meminfo: Path) -> int:
    words = _words(meminfo)
    if "MemAvailable:" in words:
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _siblings(cpus: Path, number: int) -> str:
    """Return what is equal for processors that share a core, as far as the system tells."""
    try:
        return (cpus / f"cpu{number}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _folders(groups: Path, mount: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those above it: each of them may set a limit."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = mount / controller if controllers else mount
        inner = root / name.lstrip("/")
        # In a container, the names are the machine's and the folders its own: then the topmost one is ours.
        yield from [inner, *(folder for folder in inner.parents if folder == root or root in folder.parents)]


def _quota(folder: Path) -> float | None:
    """Return how many processors a group may keep busy; None: as many as there are."""
    if (both := _words(folder / "cpu.max")) and len(both) == 2 and both[0] != "max":
        return int(both[0]) / int(both[1])
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        return int(quota[0]) / int(period[0])
    return None


def _room(folder: Path) -> int | None:
    """Return how many bytes a group may take beside what it has; None: as many as there are."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, used = _words(folder / limit), _words(folder / usage)
        if most and used and most[0] != "max" and int(most[0]) < _UNLIMITED:
            # Cached files count as used, and make way.
            kept = dict(zip(*[iter(_words(folder / "memory.stat"))] * 2, strict=False)).get(cache, "0")
            return int(most[0]) - int(used[0]) + int(kept)
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
