"""What is written about the farm agrees with the farm."""

import ast
import inspect
import re
import shlex
import textwrap
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml
from pydantic_core import PydanticUndefined

from scheduler.cli.main import COMMANDS
from storage.settings import Settings
from storage.spec.registry import parse_registry
from tests.snippets import PAGES, TOP, name_of, snippets_of

FOLDERS = ("storage", "scheduler", "worker", "tests", "deploy", "examples", "benchmarks", "findings")


def test_env_example_names_every_setting_with_its_default() -> None:
    written = dict(re.findall(r"^# (FARM_\w+)=(.*)$", (TOP / "deploy/env.example").read_text(), re.MULTILINE))
    defaults = {
        f"FARM_{name.upper()}": "" if field.default in (None, PydanticUndefined) else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert {name: written.get(name) for name in defaults} == defaults


def test_env_example_explains_each_setting_in_the_words_of_the_code() -> None:
    text = (TOP / "deploy/env.example").read_text()
    written = docstrings_of_fields(Settings)
    assert written.keys() == Settings.model_fields.keys()
    for name, words in written.items():
        assert f"# {words}\n# FARM_{name.upper()}=" in text


def docstrings_of_fields(model: type) -> dict[str, str]:
    """The string under each field of a class."""
    [written] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(written, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(written.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text))
    missing = [path for path in linked | named if not ((page.parent / path).exists() or (TOP / path).exists())]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_names_is_understood(page: Path) -> None:
    for line in [command for snippet in snippets_of(page) for command in snippet.commands]:
        if line.startswith("farm "):
            understand(farm(), shlex.split(line, comments=True)[1:])
    for span in re.findall(r"`farm ([^`]+)`", without_blocks(page.read_text())):
        words = span.replace("\\|", "|").replace("[", " ").replace("]", " ").replace("| ", " ").split()
        for command in named_commands(words):
            known = {option for parameter in command.params for option in (*parameter.opts, "--help")}
            assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, span


def test_every_command_is_in_the_command_reference() -> None:
    named = set(re.findall(r"`farm ([a-z]+)", (TOP / "scheduler/README.md").read_text()))
    assert named == COMMANDS.keys()


def test_every_subcommand_is_in_the_command_reference() -> None:
    text = (TOP / "scheduler/README.md").read_text()
    for name, command in COMMANDS.items():
        found = command.load()
        if isinstance(found, click.Group):
            missing = [sub for sub in found.commands if not re.search(rf"`farm {name} [^\n]*\b{sub}\b", text)]
            assert missing == [], name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_make_targets_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"(?:`|^\$ |^)make ([a-z]+)", page.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_the_readme_fits_on_two_screens() -> None:
    assert len((TOP / "README.md").read_text().splitlines()) <= 130


def test_each_job_of_continuous_integration_runs_tests_that_exist_and_together_all() -> None:
    jobs = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text())["jobs"]
    folders = {folder for group in jobs["test"]["strategy"]["matrix"]["tests"] for folder in group.split()}
    assert folders == {str(file.parent.relative_to(TOP)) for file in (TOP / "tests").glob("*/test_*.py")}


def farm() -> click.Group:
    """`farm` itself, with every command loaded."""
    return click.Group(commands={name: command.load() for name, command in COMMANDS.items()})


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def named_commands(words: list[str]) -> list[click.Command]:
    """The commands of a span such as `farm keys create|list`, each of which must exist."""
    command = COMMANDS[words[0]].load()
    if isinstance(command, click.Group) and len(words) > 1:
        names = [name for name in words[1].split("|") if name.islower() and not name.startswith("-")]
        return [command.commands[name] for name in names]
    return [command]


def understand(command: click.Command, arguments: list[str]) -> None:
    """Parse, without looking whether the files that are named exist; raises click.UsageError."""
    context = click.Context(command)
    _, rest, _ = command.make_parser(context).parse_args(arguments)
    if isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, name
        understand(found, rest)


def test_the_example_registry_is_one() -> None:
    registry = parse_registry((TOP / "examples/models.toml").read_text(), where="examples/models.toml")
    assert {"shapes", "simulated"} <= registry.models.keys()


def test_the_compose_file_sets_only_settings_that_exist() -> None:
    compose = yaml.safe_load((TOP / "deploy/compose.yaml").read_text())
    known = {f"FARM_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in compose["x-settings"] if name.startswith("FARM_")} <= known
