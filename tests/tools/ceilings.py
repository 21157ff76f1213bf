"""What exceeds a ceiling: `python -m tests.tools.ceilings` prints tests/ceilings.toml as it would have to be now."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.tools.statements import below

TOP = Path(__file__).parents[2]
LISTED = TOP / "tests/ceilings.toml"
FOLDERS = ("storage", "scheduler", "worker", "diffusion_farm", "benchmarks", "examples", "tests")

CEILINGS = {"file lines": 400, "function lines": 50, "parameters": 6}

#: Decorators by which a function's parameters are not what its caller passes: command line options, injected fixtures,
#: parts of an HTTP request.
_INJECTED = ("command", "group", "fixture", "given", "get", "post", "put", "patch", "delete")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def exceeding(top: Path = TOP) -> dict[str, dict[str, int]]:
    """Return, for each ceiling, what exceeds it and by which number it is described."""
    found: dict[str, dict[str, int]] = {name: {} for name in CEILINGS}
    for folder in FOLDERS:
        for file in sorted((top / folder).rglob("*.py")):
            source = file.read_text()
            where = str(file.relative_to(top))
            found["file lines"][where] = len(source.splitlines())
            for name, function in _functions(ast.parse(source)):
                found["function lines"][f"{where}::{name}"] = (function.end_lineno or 0) - function.lineno + 1
                if not _is_injected(function):
                    found["parameters"][f"{where}::{name}"] = _parameters(function)
    return {
        ceiling: {name: number for name, number in numbers.items() if number > CEILINGS[ceiling]}
        for ceiling, numbers in found.items()
    }


def listed() -> dict[str, dict[str, int]]:
    """Return the exceptions that are on the list."""
    return {name: {} for name in CEILINGS} | tomllib.loads(LISTED.read_text())


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in below(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from _functions(node, f"{name}.")
        else:
            yield from _functions(node, prefix)


def _parameters(function: Function) -> int:
    arguments = function.args
    named = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def _is_injected(function: Function) -> bool:
    if function.name.startswith("test_"):
        return True
    names = (ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in function.decorator_list)
    return any(name in _INJECTED for name in names)


def main() -> None:
    print("# What exceeds a ceiling (tests/unit/test_ceilings.py). This list only shrinks: entries go, numbers fall.")
    for ceiling, numbers in exceeding().items():
        print(f'\n["{ceiling}"]  # at most {CEILINGS[ceiling]}')
        for name, number in numbers.items():
            print(f'"{name}" = {number}')


if __name__ == "__main__":
    main()
