"""`make affected` chooses the tests that reach a changed file."""

from pathlib import Path

import pytest

from tests.tools.affected import affected

FILES = {
    "storage/__init__.py": '"""Not used: scheduler.cli."""',
    "storage/rules.py": "",
    "storage/models.toml": "",
    "scheduler/__init__.py": "",
    "scheduler/cli.py": "def late():\n    from storage import rules",
    "worker/__init__.py": "",
    "worker/process/__init__.py": "",
    "worker/process/supervisor.py": 'CHILD = ["python", "-m", "worker.render"]',
    "worker/render.py": "",
    "tests/__init__.py": "",
    "tests/conftest.py": "import tests.servers, storage.rules",
    "tests/servers.py": "",
    "tests/acceptance/__init__.py": "",
    "tests/acceptance/command.py": 'COMMAND = ["python", "-m", "scheduler.cli"]',
    "tests/acceptance/test_commands.py": "from tests.acceptance import command",
    "tests/unit/__init__.py": "",
    "tests/unit/test_rules.py": "from storage.rules import something",
    "tests/unit/test_program.py": 'PROGRAM = "from worker.render import draw"',
    "tests/unit/test_documents.py": "",
    "tests/unit/test_pages.py": 'PAGE = "manual.md"',
    "tests/snippets.py": "",
    "tests/unit/test_snippets.py": "import tests.snippets",
}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        pytest.param("storage/rules.py", ["test_commands", "test_rules"], id="imports, also late ones"),
        pytest.param("worker/render.py", ["test_commands", "test_program"], id="programs in strings, farm processes"),
        pytest.param("scheduler/cli.py", ["test_commands"], id="commands, but no docstring"),
        pytest.param("tests/unit/test_rules.py", ["test_rules"], id="a test itself"),
        pytest.param("storage/models.toml", ["test_commands", "test_documents", "test_rules"], id="data of a package"),
        pytest.param("docs/manual.md", ["test_documents", "test_pages", "test_snippets"], id="a page that one names"),
        pytest.param("scheduler/gone.py", [], id="a module that is gone and not missed"),
        pytest.param(
            "tests/servers.py",
            ["test_commands", "test_documents", "test_pages", "test_program", "test_rules", "test_snippets"],
            id="what conftest uses",
        ),
        pytest.param(
            "pyproject.toml",
            ["test_commands", "test_documents", "test_pages", "test_program", "test_rules", "test_snippets"],
            id="what concerns everything",
        ),
    ],
)
def test_the_tests_that_reach_a_changed_file_are_chosen(top: Path, changed: str, tests: list[str]) -> None:
    assert sorted(Path(one.test).stem for one in affected([changed], top)) == tests


def test_the_way_to_a_changed_file_is_told(top: Path) -> None:
    why = {Path(one.test).stem: one.why for one in affected(["worker/render.py"], top)}
    assert why["test_commands"].endswith("tests.acceptance.command → worker.process.supervisor → worker.render")


def test_a_command_concerns_the_tests_that_say_its_name(top: Path) -> None:
    (top / "scheduler/cli.py").unlink()
    (top / "scheduler/cli").mkdir()
    for name in ("__init__", "main", "long_list", "up"):
        (top / f"scheduler/cli/{name}.py").touch()
    (top / "tests/acceptance/command.py").write_text('COMMAND = ["python", "-m", "scheduler.cli.main"]')
    (top / "tests/acceptance/test_lists.py").write_text('from tests.acceptance import command\nrun("list", "--long")')
    stems = {
        name: [Path(one.test).stem for one in affected([f"scheduler/cli/{name}.py"], top)]
        for name in ("main", "long_list")
    }
    assert stems["main"] == ["test_commands", "test_lists"]
    assert stems["long_list"] == ["test_lists"]


def test_what_a_conftest_has_concerns_those_that_import_it_themselves(top: Path) -> None:
    (top / "tests/unit/conftest.py").write_text("import tests.servers, worker.render")
    assert [Path(one.test).stem for one in affected(["worker/render.py"], top)] == ["test_commands", "test_program"]
    assert len(affected(["tests/unit/conftest.py"], top)) == 5
