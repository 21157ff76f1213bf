"""Copies of checked values with some of them replaced, by hand: pydantic's take six times as long."""

from collections.abc import Mapping, Set
from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)
_set = object.__setattr__


def copied(model: M, values: Mapping[str, Any], given: Set[str] | None = None) -> M:
    """Return a copy in which these values are replaced, unchecked.

    For models without private attributes and further fields.

    Args:
        given: the fields that count as given; None: the same. Nobody changes them.
    """
    made = model.__class__.__new__(model.__class__)
    _set(made, "__dict__", {**model.__dict__, **values})
    _set(made, "__pydantic_fields_set__", model.__pydantic_fields_set__ if given is None else given)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made
