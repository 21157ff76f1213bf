"""Runs the tests that reach what was changed since a branch left `main`, uncommitted changes included.

`python -m tests.tools.affected [--base main] [--list] [arguments of pytest …]`
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.tools.imports import chosen, import_graph, module_name, python_files, ways

TOP = Path(__file__).parents[2]

#: Tests that reach one of these start the farm's processes, and so reach everything that those load.
STARTERS = {"tests.acceptance.command", "tests.integration.farm", "tests.chaos.stage"}
_PROCESSES = ("scheduler.cli.up", "scheduler.cli.scheduler", "scheduler.cli.api", "worker.process.supervisor")
#: Imports whatever may be forked; each test says what of that it uses.
_FORKS = "tests.fork_server"

#: Whatever these say may concern any test.
EVERYTHING = {"pyproject.toml", "constraints.txt"}
_DOCUMENTS = "tests/unit/test_documents.py"
#: Reads every page.
_PAGES = "tests.snippets"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    test: str
    why: str


def changed_files(base: str) -> set[str]:
    """Return the files that differ from where this branch left `base`, those not committed or not tracked included."""
    fork = _git("merge-base", base, "HEAD").strip()
    listed = _git("diff", "--name-only", "-z", "--no-renames", fork)
    listed += _git("ls-files", "-z", "--others", "--exclude-standard")
    return {name for name in listed.split("\0") if name}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=TOP, capture_output=True, text=True, check=True).stdout


def affected(changed: Collection[str], top: Path = TOP) -> list[Chosen]:
    """Return the test files that reach a changed file, each with the shortest reason."""
    files = python_files(top)
    gone = {module_name(Path(name)) for name in changed if name.endswith(".py")} - files.keys()
    graph = import_graph(files, gone)
    if _FORKS in graph:
        graph[_FORKS] = {name for name in graph[_FORKS] if name.startswith("tests.")}
    changed_modules = {module_name(Path(name)) for name in changed if name.endswith(".py")}
    data = {name for name in changed if not name.endswith(".py")}
    found = []
    for name, file in files.items():
        if name.startswith("tests.") and file.name.startswith("test_"):
            reached = _reached(name, files, graph)
            why = _why(reached, changed_modules) or _why_data(file.relative_to(top), reached, data, files)
            if why:
                found.append(Chosen(test=str(file.relative_to(top)), why=why))
    return found


def _reached(test: str, files: Mapping[str, Path], graph: Mapping[str, Set[str]]) -> dict[str, tuple[str, ...]]:
    """The modules that a test file reaches, with the way to each."""
    own = [name for name in ways(test, graph) if name.startswith("tests.")]
    graph = chosen(graph, set().union(*(_words(files[name]) for name in own)))
    reached = ways(test, graph)
    parts = test.split(".")
    conftests = [".".join([*parts[:n], "conftest"]) for n in range(1, len(parts))]
    for start in (name for name in conftests if name in files):
        for module, way in ways(start, graph).items():
            # What conftests reach they reach for those that ask for a database or a farm, who import it themselves.
            if module.startswith("tests."):
                reached.setdefault(module, (test, *way))
    starter = next((name for name in sorted(STARTERS) if name in reached), None)
    if starter:
        for process in (name for name in _PROCESSES if name in files):
            for module, way in ways(process, graph).items():
                reached.setdefault(module, (*reached[starter], *way))
    return reached


@cache
def _words(file: Path) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", file.read_text()))


def _why(reached: Mapping[str, tuple[str, ...]], changed: Set[str]) -> str | None:
    hits = sorted((reached[name] for name in changed & reached.keys()), key=len)
    return " → ".join(hits[0]) if hits else None


def _why_data(
    test: Path, reached: Mapping[str, tuple[str, ...]], data: Set[str], files: Mapping[str, Path]
) -> str | None:
    """A file that is no module concerns who names it, and who reaches the package that it lies in."""
    for name in sorted(data):
        if name in EVERYTHING:
            return f"{name} may concern any test"
        if str(test) == _DOCUMENTS:
            return f"{name} may be named in a document, or be one"
        if name.endswith(".md") and _PAGES in reached:
            return " → ".join([*reached[_PAGES], name])
        packages = [".".join(Path(name).parts[:n]) for n in range(len(Path(name).parts) - 1, 0, -1)]
        package = next((one for one in packages if one in files), None)
        if package and package != "tests" and package in reached:
            return " → ".join([*reached[package], name])
        namer = next((module for module in _namers(name, reached, files)), None)
        if namer:
            return " → ".join([*reached[namer], name])
    return None


def _namers(name: str, reached: Mapping[str, tuple[str, ...]], files: Mapping[str, Path]) -> Iterator[str]:
    """The test modules that write a file's name down."""
    for module in reached:
        if module.startswith("tests.") and module in files and Path(name).name in files[module].read_text():
            yield module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="main", help="the branch that changes are counted from (default: main)")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    options, pytest_arguments = parser.parse_known_args()
    changed = changed_files(options.base)
    tests = affected(changed)
    print(f"{len(changed)} changed files reach {len(tests)} files of tests")
    for one in tests:
        print(f"  {one.test}\n      {one.why}")
    if tests and not options.list:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *pytest_arguments, *(one.test for one in tests)])


if __name__ == "__main__":
    main()
