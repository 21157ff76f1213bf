"""Who imports whom, read from the source without running any of it."""

import ast
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import nullcontext
from pathlib import Path

from tests.tools.remembered import remembering

_TOP = Path(__file__).parents[2]

#: Packages and single modules of the repository.
PACKAGES = ("storage", "scheduler", "worker", "diffusion_farm", "benchmarks", "examples", "tests")

#: Strings such as "-m scheduler.cli.main" or whole programs start processes: what they name counts as imported.
_NAMED = re.compile(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+")


#: Modules that import others by names which they put together, and how those names begin.
_DYNAMIC = {
    "scheduler.cli.main": "scheduler.cli.",
    "scheduler.cli.export": "scheduler.export.",
    "storage.database.schema": "storage.database.migrations.",
}
#: Those of them that import the one module whose name somebody says, as a command line does.
CHOOSING = ("scheduler.cli.main", "scheduler.cli.export")


def python_files(top: Path) -> dict[str, Path]:
    """Return the file of every module, by the module's name."""
    return {
        module_name(file.relative_to(top)): file
        for package in PACKAGES
        for file in sorted((top / package).rglob("*.py"))
    }


def module_name(file: Path) -> str:
    """Return the dotted name of a file given relative to the top folder."""
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _named(module: str) -> list[str]:
    """Return what a module imports, or names in a string; it is given as its name, a line's end and its source."""
    name, _, source = module.partition("\n")
    nodes = [*ast.walk(ast.parse(source))]
    # Docstrings tell of other modules without using them; only they and other idle strings are statements.
    idle = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return sorted({one for node in nodes if id(node) not in idle for one in _candidates(node, name)})


def _candidates(node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        # A relative import counts dots up from the module.
        base = name.split(".")[: -node.level] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _NAMED.findall(node.value)


def _with_packages(dotted: str, known: Set[str]) -> set[str]:
    """A name may go on into a module: `storage.errors.FarmError` imports `storage` and `storage.errors`."""
    parts = dotted.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)} & known


def import_graph(files: Mapping[str, Path], also_known: Iterable[str] = ()) -> dict[str, set[str]]:
    """Return what each module imports; `also_known` names modules that are gone but may still be imported."""
    known = {*files, *also_known}
    ours = all(file.is_relative_to(_TOP) for file in files.values())
    with remembering(__file__) if ours else nullcontext(lambda text, find: find(text)) as remember:
        named = {name: remember(f"{name}\n{file.read_text()}", _named) for name, file in files.items()}
    graph = {
        name: {module for one in found for module in _with_packages(one, known)} - {name}
        for name, found in named.items()
    }
    for name in _DYNAMIC.keys() & graph.keys():
        graph[name] |= {module for module in known if module.startswith(_DYNAMIC[name])}
    return graph


def chosen(graph: Mapping[str, Set[str]], said: Set[str]) -> dict[str, Set[str]]:
    """Return what each module imports where only these words are said, of which some choose modules."""
    pruned: dict[str, Set[str]] = dict(graph)
    for name in graph.keys() & set(CHOOSING):
        start = _DYNAMIC[name]
        pruned[name] = {
            module
            for module in graph[name]
            if not module.startswith(start) or not said.isdisjoint(module.removeprefix(start).split("_"))
        }
    return pruned


def ways(start: str, graph: Mapping[str, Set[str]]) -> dict[str, tuple[str, ...]]:
    """Return a shortest way from a module to each module that it reaches, itself included."""
    found: dict[str, tuple[str, ...]] = {start: (start,)}
    waiting = deque([start])
    while waiting:
        name = waiting.popleft()
        for imported in sorted(graph.get(name, ())):
            if imported not in found:
                found[imported] = (*found[name], imported)
                waiting.append(imported)
    return found
