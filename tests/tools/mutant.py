"""What a mutant is: an old fault, where it was, and the tests that must catch it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Change:
    """Text that stands once in a file, and what the fault puts in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A fault that the farm once had, or could have."""

    fault: str
    changes: tuple[Change, ...]
    #: As pytest takes them.
    tests: tuple[str, ...]
