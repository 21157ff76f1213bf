"""Requests with the place that they were read from, and the handling of bad ones.

The stages of a submission are generators over these: read, filled in, multiplied, specified. A manifest of a million
rows flows through them one row at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from storage.errors import InvalidInput
from storage.spec.picture import Request

#: More pictures than a farm renders in a year are a mistake, or meant to do harm.
MOST_PICTURES = 10_000_000


class SourcedRequest(NamedTuple):
    """Hold a request and where it was read: `prompts.jsonl line 3`; empty if there is only one."""

    where: str
    request: Request
    #: How many pictures of it; None: as many as of every request of its order.
    copies: int | None = None


@dataclass
class BadRows:
    """Refuse an order at its first bad row or, with `report`, skip bad rows, each counted and reported."""

    #: Called for each row that is skipped.
    report: Callable[[InvalidInput], None] | None = None
    left_out: int = 0

    def met(self, error: InvalidInput) -> None:
        """Skip a bad row, or raise its error."""
        if self.report is None:
            raise error from None
        self.left_out += 1
        self.report(error)


def numbered(requests: Iterable[Request], *, noun: str = "prompt") -> Iterator[SourcedRequest]:
    """Number requests that did not come from a file."""
    return (SourcedRequest(f"{noun} {number}", request) for number, request in enumerate(requests, start=1))


def with_defaults(asked: Iterable[SourcedRequest], defaults: Mapping[str, Any]) -> Iterator[SourcedRequest]:
    """Fill in missing fields, such as the command line's options for every row of a file."""
    for one in asked:
        missing = {name: value for name, value in defaults.items() if getattr(one.request, name) is None}
        yield one._replace(request=one.request.model_copy(update=missing)) if missing else one


def at(where: str, error: InvalidInput) -> InvalidInput:
    """Return the error with its place in front."""
    return type(error)(f"{where}: {error}") if where else error
