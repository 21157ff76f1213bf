"""What was asked for, picture by picture, with the place it came from; and what to do with what is wrong.

The stations of a submission are generators over these: read, filled in, multiplied, completed. A manifest of a million
rows flows through them one row at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from storage.errors import InvalidInput
from storage.spec.picture import Request


class SourcedRequest(NamedTuple):
    """A request, and where it was read: `prompts.jsonl line 3`."""

    where: str
    request: Request


@dataclass
class BadRows:
    """What is wrong is refused, and with it everything; or left out, each counted and reported."""

    #: Called for each that is left out.
    report: Callable[[InvalidInput], None] | None = None
    left_out: int = 0

    def met(self, error: InvalidInput) -> None:
        """Raises the error unless what is wrong is left out."""
        if self.report is None:
            raise error from None
        self.left_out += 1
        self.report(error)


def numbered(requests: Iterable[Request]) -> Iterator[SourcedRequest]:
    """Requests that came from no file."""
    return (SourcedRequest(f"prompt {number}", request) for number, request in enumerate(requests, start=1))


def with_defaults(asked: Iterable[SourcedRequest], defaults: Mapping[str, Any]) -> Iterator[SourcedRequest]:
    """Fill in what a request leaves out, such as the command line's options for every row of a file."""
    for where, request in asked:
        missing = {name: value for name, value in defaults.items() if getattr(request, name) is None}
        yield SourcedRequest(where, request.model_copy(update=missing) if missing else request)


def at(where: str, error: InvalidInput) -> InvalidInput:
    """The same error, with its place."""
    return type(error)(f"{where}: {error}")
