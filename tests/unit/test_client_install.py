"""The client stands alone: what its install must bring, and what the commands say in it."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.client_only import EXTRAS, without

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def packages_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", requirement)[0] for requirement in requirements}


def imported_by(file: Path) -> set[str]:
    """The packages that a file imports, the standard library's left out."""
    found = set()
    for statement in ast.walk(ast.parse(file.read_text())):
        if isinstance(statement, ast.Import):
            found |= {name.name for name in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.add(statement.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names


def test_the_base_install_brings_what_the_client_imports_and_nothing_else() -> None:
    needed = imported_by(TOP / "diffusion_farm/__init__.py") | imported_by(TOP / "diffusion_farm/client.py")
    assert needed - {"diffusion_farm"} == packages_of(PROJECT["dependencies"])


def test_the_client_s_extra_adds_nothing() -> None:
    assert PROJECT["optional-dependencies"]["client"] == []


@pytest.mark.parametrize("extra", ["api", "datasets", "embedded", "postgresql", "worker"])
def test_whoever_runs_a_part_of_a_farm_gets_the_commands(extra: str) -> None:
    assert "diffusion-farm[scheduler]" in PROJECT["optional-dependencies"][extra]


@pytest.mark.parametrize(
    ("program", "function", "extra"), [("farm", "farm", "scheduler"), ("farm-worker", "farm_worker", "worker")]
)
def test_a_command_of_a_client_s_install_says_what_to_install(program: str, function: str, extra: str) -> None:
    assert PROJECT["scripts"][program] == f"diffusion_farm.commands:{function}"
    ended = subprocess.run(
        [sys.executable, "-c", without(EXTRAS, f"from diffusion_farm.commands import {function}; {function}()")],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert re.fullmatch(rf'{program}: the package \w+ is not installed; .*"diffusion-farm\[{extra}\]"`', line)
