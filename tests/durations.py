"""How long each file of tests takes: written down by `make test`, used by the next run to start the longest first."""

import json
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

#: The figures that are kept; `make durations` writes them.
KEPT = Path(__file__).with_suffix(".json")

#: For a file without a figure: early enough not to be what everybody waits for in the end.
_NEW_FILE_SECONDS = 60.0

#: A file that took longer is run in parts, by several processes.
_PART_SECONDS = 45.0
#: What tests of a file share through these fixtures would be made once for each part.
_SHARED = {"class", "module", "package"}

_SLOWEST = 60


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests ordered by the time that their files took last, in the order of each file."""
    seconds = _kept()
    return sorted(items, key=lambda item: -seconds.get(_file(item.nodeid), _NEW_FILE_SECONDS))


def divided(items: Sequence[pytest.Item]) -> list[list[pytest.Item]]:
    """Return the files' tests, for processes that each take one list after another, the longest lists first.

    Of files that took long, and share nothing among their tests, there are several lists.
    """
    seconds = _kept()
    parts: list[tuple[float, list[pytest.Item]]] = []
    for name, each in groupby(items, lambda item: _file(item.nodeid)):
        tests, its = list(each), seconds.get(name, _NEW_FILE_SECONDS)
        whole = name not in seconds or any(map(_shares, tests))
        count = 1 if whole else max(1, min(len(tests), math.ceil(its / _PART_SECONDS)))
        parts += [(its / count, part) for part in _cut(tests, count)]
    return [part for _, part in sorted(parts, key=lambda one: -one[0])]


def _cut(tests: list[pytest.Item], count: int) -> Iterator[list[pytest.Item]]:
    for number in range(count):
        yield tests[len(tests) * number // count : len(tests) * (number + 1) // count]


def _shares(item: pytest.Item) -> bool:
    """Whether a test uses what other tests of its file, and of no other, use as well."""
    information: Any = getattr(item, "_fixtureinfo", None)
    definitions = () if information is None else information.name2fixturedefs.values()
    return any(one.scope in _SHARED for each in definitions for one in each)


def _kept() -> dict[str, float]:
    return {name: entry["seconds"] for name, entry in json.loads(KEPT.read_text())["files"].items()}


# Told apart as plugins are: each is itself.
@dataclass(eq=False)
class Recorder:
    """A plugin that writes the figures of a run to a file, in the process that hears of every test."""

    file: Path
    processes: int
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        files: dict[str, list[float]] = defaultdict(list)
        for test, seconds in self.seconds.items():
            files[_file(test)].append(seconds)
        figures = {
            "measured": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "test_processes": self.processes,
            "tests": len(self.seconds),
            "wall_seconds": round(time.monotonic() - self.started, 1),
            "files": {
                name: {"tests": len(each), "seconds": round(sum(each), 1)}
                for name, each in sorted(files.items(), key=lambda entry: -sum(entry[1]))
            },
            "slowest": {
                test: round(seconds, 1)
                for test, seconds in sorted(self.seconds.items(), key=lambda entry: -entry[1])[:_SLOWEST]
            },
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
