"""Files of tests that forked processes share: all of them run, and all that is to be said of them is said."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FILE = """
import os, signal, pytest

@pytest.fixture(scope="module")
def shared():
    return []

@pytest.mark.parametrize("n", range(3))
def test_passes(n, shared, tmp_path):
    shared.append(n)
    assert shared == [*range(n + 1)]

def test_fails():
    print("what it printed")
    assert 1 == 2

@pytest.mark.skip(reason="not here")
def test_is_skipped(): ...

@pytest.fixture
def broken():
    yield
    raise ValueError("at its end")

def test_is_left_in_disorder(broken): ...
"""
_KILLED = """
import os, signal

def test_kills():
    os.kill(os.getpid(), signal.SIGKILL)

def test_is_never_run(): ...
"""

#: In a circle, and so found by the collector of garbage alone, which looks in the end.
_UNCLOSED = """
import gc

gc.disable()

def test_leaves_a_file_open():
    circle = [open(__file__)]
    circle.append(circle)
"""


_TOLD = """
from pathlib import Path
from tests import durations

durations.KEPT = Path(__file__).with_name("kept.json")

def pytest_collection_finish(session):
    print(*(f"{one[0].path.stem} {len(one)}" for one in durations.divided(session.items)), sep=", ")
"""


def ran(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    options = ["-p", "tests.split", "--split", "2", "-ra", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", *options, "--basetemp", str(folder / "base"), *more]
    # Without the plugins that happen to be installed, which take longer to import than all of this.
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)


def test_every_file_is_run_once_and_what_is_said_of_its_tests_is_said(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(_FILE)
    done = ran(tmp_path)
    assert re.search(r"4 failed, 16 passed, 4 skipped, 4 errors in ", done.stdout), done.stdout + done.stderr
    for name in "abcd":
        assert f"FAILED test_{name}.py::test_fails - assert 1 == 2" in done.stdout
        assert f"ERROR test_{name}.py::test_is_left_in_disorder - ValueError: at its end" in done.stdout
        assert re.search(rf"SKIPPED \[1\] .*test_{name}.py:17: not here", done.stdout)
    assert done.stdout.count("what it printed\n") == 4
    assert done.returncode == 1


def test_a_file_that_took_long_is_run_in_parts_unless_its_tests_share_something(tmp_path: Path) -> None:
    figures = {"test_long.py": 100.0, "test_sharing.py": 100.0, "test_short.py": 40.0, "test_brief.py": 0.0}
    (tmp_path / "kept.json").write_text(json.dumps({"files": {name: {"seconds": s} for name, s in figures.items()}}))
    tests = "@pytest.mark.parametrize('n', range(5))\ndef test_one(n{}): ...\n"
    for name in ("long", "short", "new", "brief"):
        (tmp_path / f"test_{name}.py").write_text("import pytest\n" + tests.format(""))
    (tmp_path / "test_sharing.py").write_text(_FILE.partition("@pytest.mark")[0] + tests.format(", shared"))
    (tmp_path / "conftest.py").write_text(_TOLD)
    done = ran(tmp_path, "--collect-only", "--quiet")
    assert (
        "test_sharing 5, test_new 5, test_short 5, test_long 1, test_long 2, test_long 2, test_brief 5" in done.stdout
    ), done.stdout


def test_a_process_that_is_killed_is_told_of_and_the_others_run_the_rest(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(_KILLED)
    for name in "bc":
        (tmp_path / f"test_{name}.py").write_text("def test_passes(): ...\n")
    done = ran(tmp_path)
    said = "a process of tests has ended with signal 9; the last test that it began was test_a.py::test_kills"
    assert said in done.stdout, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert done.returncode == 1


def test_after_as_many_failures_as_are_wanted_no_file_is_begun(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"test_{name}.py").write_text("def test_fails():\n    assert 1 == 2\n")
    done = ran(tmp_path, "--exitfirst")
    assert re.search(r"\b[1-3] failed in ", done.stdout), done.stdout + done.stderr
    assert re.search("stopping after [1-3] failures", done.stdout)


def test_what_is_never_closed_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(_UNCLOSED)
    done = ran(tmp_path, "-W", "error")
    assert "ended with status 1; the last test that it began was test_a.py::test_leaves_a_file_open" in done.stdout
    assert "unclosed file" in done.stderr, done.stdout + done.stderr
    assert done.returncode == 1
