"""What strangers sent, what they were answered, and what they should not have been."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

#: Statuses that mean "come back later", as the API's documentation says, where the answer also says when.
_BACK_PRESSURE = (429, 503)
#: `/readyz` says with 503 what is not ready; 504 is the answer to who waits longer than a call may.
_NOT_READY, _WAITED = "/readyz", 504
_MOST_EXAMPLES = 40


@dataclass(frozen=True, kw_only=True)
class Told:
    """An answer, as far as it matters here."""

    status: int
    retry_after: str | None = None
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A finished tally."""

    requests: Mapping[str, Mapping[str, int]]
    errors: Sequence[str]
    errors_in_all: int
    let_in: Sequence[str]


@dataclass(kw_only=True)
class Tally:
    """Safe to use from any thread."""

    #: (kind, what became of it) → how often: a status, or in words.
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Answers with 5xx that are no documented back-pressure, with the requests that got them.
    errors: list[str] = field(default_factory=list)
    errors_in_all: int = 0
    #: Requests that were answered with what was not theirs.
    let_in: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def answered(self, kind: str, asked: str, told: Told, *, may_pass: bool = True) -> None:
        """Note an answer.

        Args:
            asked: the request in words, for a report.
            may_pass: whether it may have been answered with success.
        """
        delayed = told.status in _BACK_PRESSURE and told.retry_after is not None
        with self._lock:
            self.counts[kind, f"{told.status}, come back" if delayed else str(told.status)] += 1
            if told.status >= 500 and not (delayed or told.status == _WAITED or asked.split(" ")[1] == _NOT_READY):
                self.errors_in_all += 1
                if len(self.errors) < _MOST_EXAMPLES:
                    self.errors.append(f"{asked} → {told.status} {told.words[:300]}")
            if not may_pass and told.status < 300 and len(self.let_in) < _MOST_EXAMPLES:
                self.let_in.append(f"{kind}: {asked} → {told.status} {told.words[:300]}")

    def ended(self, kind: str, how: str) -> None:
        """Note a request without an answer, such as one that was given up."""
        with self._lock:
            self.counts[kind, how] += 1

    def result(self) -> "Answers":
        """What goes back to the process that asked for it."""
        return Answers(
            requests=self.by_kind(), errors=self.errors, errors_in_all=self.errors_in_all, let_in=self.let_in
        )

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Kind → what became of it → how often."""
        found: dict[str, dict[str, int]] = {}
        for (kind, how), times in sorted(self.counts.items()):
            found.setdefault(kind, {})[how] = times
        return found
