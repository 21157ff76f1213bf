"""The statements of Python source, found without a look into expressions, which are most of a syntax tree."""

import ast
from collections.abc import Iterator

#: The fields of a node in which statements stand, and what holds statements: handlers and cases.
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")


def below(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements right inside a node, with what holds some (`except`, `case`), in the order of the source."""
    for block in _BLOCKS:
        inside = getattr(node, block, None)
        # A lambda's body, and that of `a if b else c`, is an expression.
        if isinstance(inside, list):
            yield from inside


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements inside a node, however deep."""
    for one in below(node):
        yield one
        yield from statements(one)
