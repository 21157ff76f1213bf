"""One word, one meaning: a class is called as no other one of the farm is."""

import ast
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tests.tools.remembered import remembering
from tests.tools.statements import statements
from tests.unit.source import PACKAGES, ROOT


def test_no_two_classes_have_one_name() -> None:
    assert named_twice(ROOT, PACKAGES) == {}


def test_a_name_that_is_given_twice_is_found_also_inside_a_class_or_a_function(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "till.py").write_text("class Till:\n    class Key: ...\n")
    (tmp_path / "shop" / "door.py").write_text("def lock():\n    class Key: ...\n")
    assert named_twice(tmp_path, ["shop"]) == {"Key": ["shop/door.py", "shop/till.py"]}


def named_twice(root: Path, packages: Sequence[str]) -> dict[str, list[str]]:
    """Return each name that several classes have, and where these are."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    with remembering(__file__) if root == ROOT else nullcontext(lambda text, find: find(text)) as remember:
        for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
            for name in remember(path.read_text(), _classes):
                found[name].append(path.relative_to(root).as_posix())
    return {name: places for name, places in found.items() if len(places) > 1}


def _classes(source: str) -> list[str]:
    return [node.name for node in statements(ast.parse(source)) if isinstance(node, ast.ClassDef)]
