"""Every command and program in the project's pages runs, on one farm, or is an exception with a reason."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.api import Api, running_api
from tests.acceptance.command import Home
from tests.forks import WITH_TORCH, Starter
from tests.snippets import LANGUAGES, PAGES, TOP, Snippet, name_of, snippets_of

#: What is not run here, by the first word of a command, and why.
EXCEPTIONS = {
    "make": "jobs of minutes; tests/unit/test_documents.py checks that the targets exist",
    "pip": "installs from the network; tests/unit/test_client_install.py checks what an installation needs",
    **dict.fromkeys(("docker", "cp", "export"), "needs Docker, and changes the machine or the shell"),
    **dict.fromkeys(
        ("useradd", "python3", "/opt/diffusion-farm/bin/pip", "install", "set"), "sets up a machine as root"
    ),
    **dict.fromkeys(("systemctl", "systemd-run"), "needs systemd, as root"),
    "$EDITOR": "is typed in by a person",
    "cat": "writes a program that downloads gigabytes",
}
#: Rows of `examples/prompts.jsonl` that are rendered here.
_ROWS = 4
_RENDER = re.compile(r"\b[0-9a-z]{12}(-\d{6})?\b")
_PYTEST = ".venv/bin/python -m pytest "
_WITH_SNIPPETS = [page for page in PAGES if snippets_of(page)]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Api]:
    """A farm of a simulated device, its API, and a folder with what the pages take for granted."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "examples").mkdir()
    rows = (TOP / "examples/prompts.jsonl").read_text().splitlines(keepends=True)
    (folder / "examples/prompts.jsonl").write_text("".join(rows[:_ROWS]))
    (folder / "tonight.txt").write_text("a red star\na blue circle\n")
    with running_api(folder, starter) as api:
        yield api


@pytest.fixture(scope="module")
def render_id(farm: Api) -> str:
    """A finished render, in place of those that pages name."""
    return str(farm.home.farm("render", "--prompts", "examples/prompts.jsonl", "--json").json["id"])


@pytest.fixture(autouse=True)
def _nothing_is_left_of_other_pages(farm: Api) -> Iterator[None]:
    yield
    for name in ("pictures", "shards"):
        shutil.rmtree(farm.home.folder / name, ignore_errors=True)
    farm.home.farm("schedule", "remove", "nightly", code=None)


@pytest.mark.parametrize("page", _WITH_SNIPPETS, ids=name_of)
def test_the_snippets_of_a_page_run(page: Path, farm: Api, render_id: str, tmp_path: Path, starter: Starter) -> None:
    # The page on machines without a farm is for their administrators: keys made there close the farm's API.
    home = Home(tmp_path / "machine", starter) if name_of(page).startswith("deploy/") else farm.home
    for snippet in snippets_of(page):
        assert snippet.language in LANGUAGES, f"{name_of(page)} line {snippet.line}: who runs this?"
        if snippet.language == "python" and not snippet.uses_a_model:
            _run_program(snippet, farm)
        elif snippet.language != "python":
            _run_commands(snippet, home, render_id)


def test_the_tests_that_pages_name_exist(starter: Starter, tmp_path: Path) -> None:
    """Collected all at once, with all their options, by a process that has torch already."""
    named = [
        command.removeprefix(_PYTEST)
        for page in _WITH_SNIPPETS
        for snippet in snippets_of(page)
        for command in snippet.commands
        if command.startswith(_PYTEST)
    ]
    words = [word for command in named for word in shlex.split(command, comments=True)]
    if "-k" in words:
        # It selects rather than names, and would leave the others out.
        del words[words.index("-k") : words.index("-k") + 2]
    collect = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    # What that process has already is not rewritten for better words, nor run.
    collect += ["-W", "ignore:Module already imported"]
    found = starter.ran([*collect, *words], folder=tmp_path, env=WITH_TORCH, cwd=TOP)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]


def _run_commands(snippet: Snippet, home: Home, render_id: str) -> None:
    where = f"{name_of(snippet.page)} line {snippet.line}"
    if snippet.language == "sh":
        subprocess.run(["bash", "-n"], input=snippet.text.encode(), check=True)
    for command in snippet.commands:
        words = shlex.split(command, comments=True)
        if command.startswith(_PYTEST):
            continue  # collected below
        if words[0] == "farm":
            home.farm(*(_RENDER.sub(lambda found: _in_place_of(found, render_id), word) for word in words[1:]))
        else:
            assert words[0] in EXCEPTIONS, f"{where}: {command}: run it, or say why not"


def _in_place_of(found: re.Match[str], render_id: str) -> str:
    return f"{render_id}-000000" if found[1] else render_id


def _run_program(snippet: Snippet, farm: Api) -> None:
    """Run a program of Python; it prints as many lines as the page shows."""
    ended = subprocess.run(
        [sys.executable, "-c", snippet.text.replace("http://127.0.0.1:8000", farm.address)],
        cwd=farm.home.folder,
        env={**os.environ, "PYTHONPATH": str(TOP), "HF_HUB_OFFLINE": "1", "HF_HOME": str(farm.home.folder / "hub")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    if snippet.output is not None:
        assert len(ended.stdout.splitlines()) == len(snippet.output.splitlines())
    else:
        assert ended.stdout
