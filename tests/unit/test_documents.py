"""What is written about the farm agrees with the farm."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from pydantic_core import PydanticUndefined

from scheduler.cli.main import COMMANDS
from storage.settings import Settings
from storage.spec.registry import parse_registry

TOP = Path(__file__).parents[2]
PAGES = sorted(path for path in TOP.rglob("*.md") if not any(part.startswith(".") for part in path.parts))


def test_env_example_names_every_setting_with_its_default() -> None:
    written = dict(re.findall(r"^# (FARM_\w+)=(.*)$", (TOP / "deploy/env.example").read_text(), re.MULTILINE))
    defaults = {
        f"FARM_{name.upper()}": "" if field.default in (None, PydanticUndefined) else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert {name: written.get(name) for name in defaults} == defaults


def test_env_example_explains_each_setting_in_the_words_of_the_code() -> None:
    text = (TOP / "deploy/env.example").read_text()
    for name, field in Settings.model_fields.items():
        assert f"# {field.description}\n# FARM_{name.upper()}=" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
    named = set(re.findall(r"`((?:storage|scheduler|worker|tests|deploy|examples)/[\w./-]+)`", text))
    missing = [path for path in linked | named if not ((page.parent / path).exists() or (TOP / path).exists())]
    assert missing == []


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`farm ([a-z]+)", (TOP / "README.md").read_text()))
    assert named <= COMMANDS.keys()
    assert COMMANDS.keys() <= named


def test_the_make_targets_that_the_readme_names_exist() -> None:
    for target in re.findall(r"^\$ make ([a-z]+)", (TOP / "README.md").read_text(), re.MULTILINE):
        subprocess.run(["make", "--dry-run", target], cwd=TOP, check=True, capture_output=True)


def test_the_example_registry_is_one() -> None:
    registry = parse_registry((TOP / "examples/models.toml").read_text(), where="examples/models.toml")
    assert {"shapes", "simulated"} <= registry.models.keys()


def test_the_compose_file_sets_only_settings_that_exist() -> None:
    compose = yaml.safe_load((TOP / "deploy/compose.yaml").read_text())
    known = {f"FARM_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in compose["x-settings"] if name.startswith("FARM_")} <= known
