"""Commands that only look, in a folder where no farm was ever used: they say where they looked, and leave nothing."""

from pathlib import Path

import pytest

from tests.acceptance.command import Home
from tests.forks import Starter


@pytest.fixture
def home(tmp_path: Path, starter: Starter) -> Home:
    return Home(tmp_path, starter)


@pytest.mark.parametrize(
    "command",
    [
        *("status", "faults", "workers", "models", "keys list", "usage", "webhooks list", "render --dry-run red"),
        *("purge --older-than 30d --dry-run", "agenda", "schedule list"),
    ],
)
def test_what_only_looks_leaves_nothing(home: Home, command: str) -> None:
    ended = home.farm(*command.split())
    assert f"no farm was ever used in {home.path}; the setting FARM_HOME names its folder" in ended.err
    assert not home.path.exists()


@pytest.mark.parametrize(
    "command",
    [
        *("jobs abc", "status abc", "why abc", "recipe abc-000001", "rerender abc-000001", "retry abc", "cancel abc"),
        *("schedule show abc", "schedule history abc", "schedule remove abc"),
        *("keys revoke abc", "webhooks replay abc", "workers release abc"),
        *(
            "hold abc",
            "release abc",
            "watch abc",
            "fetch abc --out pictures",
            "sheet abc",
            "export abc --format parquet --to set",
        ),
    ],
)
def test_what_needs_a_render_finds_none_and_leaves_nothing(home: Home, command: str) -> None:
    home.farm(*command.split(), code=2).complains(f"no 'abc.*': no farm was ever used in {home.path}; .*FARM_HOME")
    assert not home.path.exists()


def test_for_programs_it_is_json_all_the_same(home: Home) -> None:
    assert home.farm("status", "--json").json == []


def test_the_doctor_leaves_nothing_and_finds_a_home_that_cannot_be(home: Home, tmp_path: Path) -> None:
    assert "will be created on first use" in home.farm("doctor").out
    assert not home.path.exists()
    (tmp_path / "file").write_text("")
    found = home.farm("doctor", code=3, settings={"FARM_HOME": str(tmp_path / "file" / "home")}).out
    assert f"cannot be created: {tmp_path / 'file'} cannot be written to" in found
