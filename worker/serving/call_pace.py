"""How long calls of the model take by the number of their pictures: how many may ride beside one that is urgent."""

from collections import OrderedDict
from collections.abc import Sequence

#: An urgent picture's calls may take so much longer for the sake of others.
_ALLOWED = 1.15
#: Of the new time in the average: other programs come and go.
_WEIGHT = 0.25
#: Kinds of calls that are remembered.
_MOST_KINDS = 500


class CallPace:
    """Learns from the calls of one process, by loop key."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[tuple[str, int], float] = OrderedDict()

    def took(self, key: str, pictures: int, seconds: float) -> None:
        """Note a call."""
        before = self._seconds.pop((key, pictures), seconds)
        self._seconds[key, pictures] = before + _WEIGHT * (seconds - before)
        while len(self._seconds) > _MOST_KINDS:
            self._seconds.popitem(last=False)

    def expected(self, key: str, pictures: int) -> float | None:
        """Return how many seconds a call takes; None: none was made lately."""
        return self._seconds.get((key, pictures))

    def beside(self, key: str, urgent: int, others: int) -> int:
        """Return how many others may be in the calls of so many urgent pictures without slowing them down.

        None while that is not known.
        """
        alone = self._seconds.get((key, urgent))
        if alone is None:
            return 0
        fast = [n for n in self._known(key) if n <= urgent + others and self._seconds[key, n] <= _ALLOWED * alone]
        return max([n - urgent for n in fast if n > urgent], default=0)

    def _known(self, key: str) -> Sequence[int]:
        return [n for known, n in self._seconds if known == key]
