"""What the bodies of other people's clients have in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, model_validator


class ClientBody(BaseModel):
    """A body in which null means that a field is left out: clients write the optional ones so."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if value is not None}
