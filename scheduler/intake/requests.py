"""Requests with the place that they were read from, and the handling of bad ones.

The stages of a submission are generators over these: read, filled in, multiplied, specified. A manifest of a million
rows flows through them one row at a time.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from storage.errors import BadSpecification, InvalidInput
from storage.spec.copies import copied
from storage.spec.picture import Request
from storage.spec.picture_size import FIELDS, kept_beside

#: More pictures than a farm renders in a year are a mistake, or meant to do harm.
MOST_PICTURES = 10_000_000
#: What requests that are alike may differ in.
OF_ONE = frozenset({"prompt", "seed", "custom_id", "labels"})
_MOST_ALIKE = 1_000


class SourcedRequest(NamedTuple):
    """Hold a request and where it was read: `prompts.jsonl line 3`; empty if there is only one."""

    where: str
    request: Request
    #: How many pictures of it; None: as many as of every request of its order.
    copies: int | None = None
    #: Equal for requests that differ in nothing but prompt, seed, name and labels, if that is known; the prompt then is
    #: one that any picture may have (`storage.spec.kinds.is_plain`).
    like: Hashable | None = None

    def with_values(self, values: Mapping[str, Any]) -> "SourcedRequest":
        """Return it with these values in place of its own, unchecked."""
        return self._replace(request=self.request.model_copy(update=values), like=None)


#: Bad rows that are shown, and after how many the rest of a file is not read: it is no prompt file.
_SHOWN_ROWS, _MOST_ROWS = 20, 10_000


@dataclass
class BadRows:
    """Refuse an order at its first bad row or, with `report`, skip bad rows, each counted and reported.

    With `together`, all rows are read, and the order is refused at its end for all that are bad.
    """

    #: Called for each row that is skipped.
    report: Callable[[InvalidInput], None] | None = None
    together: bool = False
    left_out: int = 0
    _first: list[InvalidInput] = field(default_factory=list)

    @property
    def go_on(self) -> bool:
        """Whether rows after a bad one are read."""
        return self.together or self.report is not None

    def met(self, error: InvalidInput) -> None:
        """Skip a bad row, or raise its error."""
        if not self.go_on:
            raise error from None
        self.left_out += 1
        if self.report is not None:
            self.report(error)
            return
        if len(self._first) < _SHOWN_ROWS:
            # Without its frames, which hold all that was read there.
            self._first.append(error.with_traceback(None))
        if self.left_out >= _MOST_ROWS:
            error, self._first = self._all("at least "), []
            raise error

    def refuse(self, last: InvalidInput | None = None) -> None:
        """Raise for the bad rows that were gathered, if any; `last`: after which nothing could be read."""
        if self._first and last is not None:
            self.left_out += 1
            self._first = [*self._first[: _SHOWN_ROWS - 1], last.with_traceback(None)]
        if self._first:
            raise self._all("")

    def _all(self, at_least: str) -> InvalidInput:
        if self.left_out == 1:
            return self._first[0]
        # One kind of error, such as a key's limit, stays that kind.
        kinds = {type(error) for error in self._first}
        kind = kinds.pop() if len(kinds) == 1 else BadSpecification
        more = self.left_out - len(self._first)
        lines = [str(error) for error in self._first] + ([f"… and {more:,} more"] if more else [])
        return kind("\n".join([f"{at_least}{self.left_out:,} bad rows:", *lines]))


def numbered(requests: Iterable[Request], *, noun: str = "prompt") -> Iterator[SourcedRequest]:
    """Number requests that did not come from a file."""
    return (SourcedRequest(f"{noun} {number}", request) for number, request in enumerate(requests, start=1))


def with_defaults(asked: Iterable[SourcedRequest], defaults: Mapping[str, Any]) -> Iterator[SourcedRequest]:
    """Fill in missing fields, such as the command line's options for every row of a file."""
    if not defaults:
        yield from asked
        return
    filled: dict[Hashable, _Filled] = {}
    same_for_all_alike = OF_ONE.isdisjoint(defaults)
    for one in asked:
        if one.like is None or not same_for_all_alike:
            missing = _missing(one.request, defaults)
            yield one.with_values(missing) if missing else one
            continue
        known = filled.get(one.like)
        if known is None:
            if len(filled) >= _MOST_ALIKE:
                filled.clear()
            known = filled[one.like] = _Filled(one.request, _missing(one.request, defaults))
        yield SourcedRequest(one.where, copied(one.request, known.missing, known.given), one.copies, known)


def _missing(request: Request, defaults: Mapping[str, Any]) -> dict[str, Any]:
    missing = {name: value for name, value in defaults.items() if getattr(request, name) is None}
    if not missing.keys().isdisjoint(FIELDS):
        given = [name for name in FIELDS if getattr(request, name) is not None]
        kept = kept_beside(given, missing)
        missing = {name: value for name, value in missing.items() if name in kept}
    return missing


class _Filled:
    """What requests that are alike lack of the defaults; they are alike with these, too."""

    def __init__(self, first: Request, missing: Mapping[str, Any]) -> None:
        self.missing = missing
        self.given = first.model_fields_set | missing.keys()


def at(where: str, error: InvalidInput) -> InvalidInput:
    """Return the error with its place in front."""
    return type(error)(f"{where}: {error}") if where else error
