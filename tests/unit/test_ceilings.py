"""Files, functions and parameter lists stay small; what does not is on a list that only shrinks."""

from pathlib import Path

import pytest

from tests.tools.ceilings import CEILINGS, exceeding, listed


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, int]]:
    return exceeding()


@pytest.mark.parametrize("ceiling", CEILINGS)
def test_nothing_exceeds_a_ceiling_but_what_is_listed(ceiling: str, found: dict[str, dict[str, int]]) -> None:
    allowed = listed()[ceiling]
    over = {name: number for name, number in found[ceiling].items() if number > allowed.get(name, 0)}
    assert over == {}, f"at most {CEILINGS[ceiling]} {ceiling}: split it; the list in tests/ceilings.toml does not grow"


@pytest.mark.parametrize("ceiling", CEILINGS)
def test_the_list_says_how_things_are_now(ceiling: str, found: dict[str, dict[str, int]]) -> None:
    better = {
        name: found[ceiling].get(name) for name, n in listed()[ceiling].items() if found[ceiling].get(name, 0) < n
    }
    assert better == {}, "lower these numbers in tests/ceilings.toml; take out what is None"


def test_each_ceiling_is_measured(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    lines = "".join(f"        a = {n}\n" for n in range(50))
    text = (
        "class C:\n"
        "    def fits(self, a, b, c, d, *, e, f): ...\n"
        "    def many(self, a, b, c, d, *, e, f, g): ...\n"
        "@click.command()\n"
        "def options(a, b, c, d, e, f, g): ...\n"
        "@pytest.fixture\n"
        "def injected(a, b, c, d, e, f, g): ...\n"
        "def outer():\n"
        "    def inner():\n"
        f"{lines}" + "\n" * 350
    )
    (tmp_path / "storage/large.py").write_text(text)
    assert exceeding(tmp_path) == {
        "file lines": {"storage/large.py": 409},
        "function lines": {"storage/large.py::outer": 52, "storage/large.py::outer.inner": 51},
        "parameters": {"storage/large.py::C.many": 7},
    }
