"""Where more pictures in a call stop being worth their wait: found by trying twice as many and half as many."""

import math
from collections import deque
from dataclasses import dataclass, field

#: Twice as many are worth their wait if a picture takes so much of the time, or less.
_WORTH = 0.9
#: Half as many will do, and everybody waits less, if a picture takes no more than so much of the least time.
_NO_WORSE = 1.05
#: What was measured longer ago is not compared: other programs come and go.
_FRESH_SECONDS = 900.0
#: Kinds of calls by whose pace it looks.
_MOST_SERIES = 100


@dataclass
class SizePace:
    """What calls of some number of pictures took, lately."""

    #: Seconds for a picture's share, one of each sample; the first sample prepared kernels and is not among them.
    samples: deque[float]
    #: For a whole call, the least.
    seconds: float = math.inf
    at: float = -math.inf

    @property
    def is_known(self) -> bool:
        return len(self.samples) == self.samples.maxlen

    @property
    def least(self) -> float:
        """Return the shortest: other programs only ever add to it."""
        return min(self.samples)


@dataclass
class KneeSearch:
    """A search for the number of pictures a call. Each number is judged once, so that it ends after a few."""

    #: In use.
    size: int
    #: How many samples make a pace known.
    needed: int = 2
    #: Whether more and fewer were judged.
    settled: bool = False
    _judged: set[int] = field(default_factory=set)
    #: By what calls have in common, and how many pictures they have.
    _paces: dict[tuple[str, int], SizePace] = field(default_factory=dict)

    def candidate(self, key: str, *, most: int, longest: float, now: float) -> int | None:
        """Return how many pictures to try a call with; None: nothing is to be tried, or not yet.

        Once nothing is left to try, the search is settled.

        Args:
            key: what a call's pictures have in common: calls with another one are not compared.
            most: no more pictures than this.
            longest: no call that is expected to take longer, in seconds.
        """
        if self.settled or (pace := self._known(key, self.size, now)) is None:
            return None
        more, fewer = 2 * self.size, self.size // 2
        if more not in self._judged and more <= most and 2 * pace.seconds <= longest:
            return more
        if fewer >= 1 and fewer not in self._judged:
            return fewer
        self.settled = True
        return None

    def note(self, key: str, pictures: int, *, share: float, seconds: float, now: float) -> bool:
        """Note what calls of so many pictures took; return True if another number is in use from now on.

        Args:
            share: seconds for a picture's share of a call.
            seconds: for the whole call.
        """
        if self.settled:
            return False
        pace = self._paces.get((key, pictures))
        if pace is None or now - pace.at > _FRESH_SECONDS:
            self._paces[key, pictures] = SizePace(deque(maxlen=self.needed), at=now)
            while len(self._paces) > _MOST_SERIES:
                del self._paces[next(iter(self._paces))]
            return False
        pace.samples.append(share)
        pace.seconds, pace.at = min(seconds, pace.seconds), now
        return self._judge(key, pictures, pace, now)

    def _judge(self, key: str, tried: int, pace: SizePace, now: float) -> bool:
        in_use = self._known(key, self.size, now)
        if not pace.is_known or in_use is None or tried in self._judged or tried not in (2 * self.size, self.size // 2):
            return False
        self._judged.add(tried)
        if tried > self.size:
            better = pace.least <= _WORTH * in_use.least
        else:
            # Not the one in use: small losses would add up.
            known = [of.least for (other, _), of in self._paces.items() if other == key and of.is_known]
            better = pace.least <= _NO_WORSE * min(known)
        if better:
            self._judged.add(self.size)
            self.size = tried
        return better

    def _known(self, key: str, size: int, now: float) -> SizePace | None:
        pace = self._paces.get((key, size))
        return pace if pace is not None and pace.is_known and now - pace.at <= _FRESH_SECONDS else None
