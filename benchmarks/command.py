"""Runs a program to its end, and says what that took."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Linux counts to a process's peak what its parent held at the fork: a parent that holds hardly anything starts it.
_STARTER = """
import json, os, sys, time
started = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(process, 0)
told = [time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss, os.waitstatus_to_exitcode(status)]
with open(sys.argv[1], "w") as file:
    json.dump(told, file)
"""
#: The unit of `ru_maxrss`: Linux counts in KiB, macOS in bytes.
_PER_MIB = 2**20 if sys.platform == "darwin" else 2**10


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process that has ended."""

    seconds: float
    #: On a processor, user and system: unlike `seconds` it hardly depends on what else the machine does.
    cpu_seconds: float
    #: Peak resident memory.
    mib: float
    printed: str


def run_command(command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> Command:
    """Run a program in a folder. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory(prefix="farm-bench-") as name:
        told, errors = Path(name, "told"), Path(name, "errors")
        with errors.open("wb") as stderr:
            printed = subprocess.run(  # noqa: S603 - what the caller asked to measure
                [sys.executable, "-I", "-S", "-c", _STARTER, str(told), *command],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                check=False,
            ).stdout
        seconds, cpu, peak, code = json.loads(told.read_text()) if told.exists() else (0, 0, 0, "an error")
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {errors.read_text()[-500:]}{printed[-200:]}")
    return Command(seconds=seconds, cpu_seconds=cpu, mib=peak / _PER_MIB, printed=printed)


def free_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without settings of a farm or of Python, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "PYTHON"))}
    return kept | settings
