"""No module imports itself by way of others: neither at its top nor inside a function, nor for type checkers alone.

import-linter keeps the layers between rooms; this looks inside them too.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.tools.statements import statements
from tests.unit.source import PACKAGES, ROOT

Graph = Mapping[str, frozenset[str]]


def test_no_module_of_the_farm_imports_itself_by_way_of_others() -> None:
    assert circles(import_graph(ROOT, PACKAGES)) == []


def test_a_circle_is_found_however_it_is_hidden(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "till.py").write_text("from shop import stock\n")
    (package / "stock.py").write_text("def count():\n    from shop.orders import Order\n")
    (package / "orders.py").write_text("if TYPE_CHECKING:\n    from shop.till import Till\n")
    (package / "street.py").write_text("import shop.till\n")
    assert circles(import_graph(tmp_path, ["shop"])) == [("shop.orders", "shop.stock", "shop.till")]


def test_a_module_that_imports_from_its_own_package_and_is_imported_there_is_a_circle(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("from .till import Till\n")
    (package / "till.py").write_text("from shop import NAME\n")
    assert circles(import_graph(tmp_path, ["shop"])) == [("shop", "shop.till")]


def import_graph(root: Path, packages: Sequence[str]) -> Graph:
    """Return which modules each module names in its imports, wherever these stand."""
    files = {name: path for package in packages for name, path in _modules(root, package)}
    return {name: frozenset(_imported(name, path, files)) for name, path in files.items()}


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Return every set of two or more modules that reach one another, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            start = stack.index(module)
            circle, stack[start:] = stack[start:], []
            if len(circle) > 1:
                found.append(tuple(sorted(circle)))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def _modules(root: Path, package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # A name in a package is a module of it, or something that the package itself holds.
            named = [f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in known else origin for alias in node.names]
        else:
            continue
        yield from (one for one in named if one in known and one != name)
