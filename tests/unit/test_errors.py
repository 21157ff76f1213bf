import inspect

import pytest

from storage import errors
from storage.errors import FarmError, InvalidInput, ServiceProblem

TREE = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == "storage.errors"]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_the_farms_own_and_says_when_it_is_raised(kind: type[Exception]) -> None:
    assert issubclass(kind, FarmError)
    assert (kind.__doc__ or "").startswith("Raised when ")


@pytest.mark.parametrize("kind", TREE)
def test_every_error_stands_in_the_drawn_tree_below_its_parent(kind: type[Exception]) -> None:
    lines = (errors.__doc__ or "").splitlines()
    columns = {name: column for line in lines for name in [_name_in(line)] if name for column in [line.index(name)]}
    parent = kind.__mro__[1]
    if kind is FarmError:
        return
    order = list(columns)
    above = [name for name in order[: order.index(kind.__name__)] if columns[name] < columns[kind.__name__]]
    assert above[-1] == parent.__name__


def test_a_mistake_of_the_caller_is_never_a_problem_of_a_service() -> None:
    assert not [kind for kind in TREE if issubclass(kind, InvalidInput) and issubclass(kind, ServiceProblem)]


def _name_in(line: str) -> str | None:
    names = [word for word in line.split() if word in {kind.__name__ for kind in TREE}]
    return names[0] if names else None
