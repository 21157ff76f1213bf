"""Commands start at once: the table that `farm --help` prints from, and what is not imported on the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.cli.main import COMMANDS

#: Whatever none of them needs: each takes a tenth of a second or more, or a good part of the memory.
HEAVY = {
    *("alembic", "boto3", "botocore", "celery", "cronsim", "dynamicprompts", "fastapi", "httpx", "kombu", "PIL"),
    *("numpy", "pyarrow", "redis", "rich", "safetensors", "torch", "uvicorn", "urllib3", "webdataset"),
}
#: By the way of the installed command.
REPORT = """
import sys
from diffusion_farm.commands import farm
try:
    farm()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


def imported(home: Path, *arguments: str) -> set[str]:
    """The modules, and their packages, that a fresh process has imported after a `farm` command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    ended = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments],
        env=environment | {"FARM_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout
    modules = set(ended.stderr.splitlines()[-1].split())
    return modules | {module.partition(".")[0] for module in modules}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Path:
    """A FARM_HOME with an embedded farm's tables."""
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(sqlite_template, home / "farm.db")
    return home


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_each_command_says_of_itself(name: str) -> None:
    command = COMMANDS[name].load()
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name].help


def test_help_imports_no_database_and_no_settings(tmp_path: Path) -> None:
    assert not imported(tmp_path, "--help") & (HEAVY | {"sqlalchemy", "pydantic"})


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_look_at_an_embedded_farm_imports_no_service_that_it_does_not_use(home: Path, command: str) -> None:
    assert not imported(home, command) & HEAVY


def test_a_list_of_renders_needs_no_specification_no_job_and_one_database(home: Path) -> None:
    needless = {"storage.spec.picture", "storage.jobs.jobs", "sqlalchemy.dialects.postgresql"}
    assert not imported(home, "status") & needless
