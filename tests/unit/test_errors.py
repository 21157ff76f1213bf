import inspect
import re

import pytest

from storage import errors
from storage.errors import FarmError, InvalidInput, ServiceProblem

TREE = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == "storage.errors"]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_the_farms_own_and_says_when_it_is_raised(kind: type[Exception]) -> None:
    assert issubclass(kind, FarmError)
    assert (kind.__doc__ or "").startswith("Raised when ")


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        for kind in TREE:
            if match := re.search(rf"\b{kind.__name__}\b", line):
                path = [*((column, name) for column, name in path if column < match.start()), (match.start(), match[0])]
                drawn[match[0]] = path[-2][1] if len(path) > 1 else "Exception"
    assert drawn == {kind.__name__: kind.__mro__[1].__name__ for kind in TREE}


def test_a_mistake_of_the_caller_is_never_a_problem_of_a_service() -> None:
    assert not [kind for kind in TREE if issubclass(kind, InvalidInput) and issubclass(kind, ServiceProblem)]
