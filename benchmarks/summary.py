"""Median, least and greatest of what rounds gave; ratios, taken within each round."""

import statistics
from collections.abc import Mapping, Sequence

Rounds = Sequence[Mapping[str, float]]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, min and max; values must not be empty."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figures_of(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Return the spread of each figure over the rounds that gave it."""
    names = dict.fromkeys(name for one in rounds for name in one)
    return {name: spread([one[name] for one in rounds if name in one]) for name in names}


def ratio(ours: Rounds, theirs: Rounds, figure: str) -> dict[str, float] | None:
    """Return the spread of ours ÷ theirs, each formed within a round; None where no round has both."""
    pairs = [
        (one[figure], other[figure])
        for one, other in zip(ours, theirs, strict=False)
        if figure in one and other.get(figure)
    ]
    return spread([one / other for one, other in pairs]) if pairs else None
