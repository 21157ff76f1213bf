"""What exceeds a ceiling: `python -m tests.tools.ceilings` prints tests/ceilings.toml as it would have to be now."""

import ast
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from tests.tools.remembered import remembering
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
    with remembering(__file__) if top == TOP else nullcontext(lambda text, find: find(text)) as remember:
        for folder in FOLDERS:
            for file in sorted((top / folder).rglob("*.py")):
                where, source = str(file.relative_to(top)), file.read_text()
                found["file lines"][where] = len(source.splitlines())
                for name, lines, parameters in remember(source, _measured):
                    found["function lines"][f"{where}::{name}"] = lines
                    if parameters is not None:
                        found["parameters"][f"{where}::{name}"] = parameters
    return {
        ceiling: {name: number for name, number in numbers.items() if number > CEILINGS[ceiling]}
        for ceiling, numbers in found.items()
    }


def _measured(source: str) -> list[tuple[str, int, int | None]]:
    """Return of each function its name, its lines, and its parameters, if somebody passes them."""
    return [
        (
            name,
            (function.end_lineno or 0) - function.lineno + 1,
            None if _is_injected(function) else _parameters(function),
        )
        for name, function in _functions(ast.parse(source))
    ]


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
