"""Names for runs of `farm-worker`, by which two machines of one host name are told apart."""

import os
from contextlib import suppress
from pathlib import Path


def run_id() -> str:
    """Return the name of this process among all that ever ran, on whatever machine: machine, process id, start."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def has_ended(run: str) -> bool:
    """Return whether the process of a run has certainly ended: it was on this machine, and is there no more."""
    machine, _, process = run.rpartition(":")[0].rpartition(":")
    return machine == _machine() and process.isdigit() and run != f"{machine}:{process}:{_started(int(process))}"


def _machine() -> str:
    # A container sees only its own processes, and has its machine's boot id.
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    import uuid  # Only here, and slow to load.

    return f"{uuid.getnode():x}"


def _started(pid: int) -> str:
    """Return when a process was started, as its machine counts; empty if there is none."""
    if Path("/proc/self/stat").exists():
        with suppress(OSError):
            # Its name stands in parentheses and may hold anything; the 20th field behind it is the start, in ticks.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return ""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # Another user's: there it is.
    except OSError:
        return ""
    return "0"
