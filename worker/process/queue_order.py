"""Which model's queue a worker polls first: a strategy class for Kombu's Redis transport.

Kombu polls *every queue at the highest priority, then at the next*; this class orders the queues within a priority:
the loaded model (the one served last) first, then the others, the one that has waited longest first. After a bounded
time the others go first once, so that affinity starves nobody.
"""

import time
from collections.abc import Callable, Iterable

#: Seconds for which the loaded model stays first while others wait. A constant, for Kombu passes no arguments.
STAY_SECONDS = 30.0


class LoadedModelFirst:
    """Orders queues: Kombu calls `update` with all of them, `consume` before a BRPOP, `rotate` after a message."""

    def __init__(self, it: Iterable[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        #: Least recently served first; the last one is the loaded model's.
        self._queues = list(it)
        self._clock = clock
        self._loaded_since = clock()
        self._served = False

    def update(self, it: Iterable[str]) -> None:
        queues = list(it)
        kept = [queue for queue in self._queues if queue in queues]
        self._queues = [queue for queue in queues if queue not in kept] + kept

    def consume(self, n: int) -> list[str]:
        """Return the queues in the order in which to poll them."""
        if not self._served:
            return self._queues[:n]
        *others, loaded = self._queues
        if self._clock() - self._loaded_since < STAY_SECONDS:
            return [loaded, *others][:n]
        return [*others, loaded][:n]

    def rotate(self, last_used: str) -> str:
        """Note which queue a ticket came from: its model is the loaded one now."""
        if last_used in self._queues:
            if not self._served or self._queues[-1] != last_used or self._clock() - self._loaded_since >= STAY_SECONDS:
                self._loaded_since = self._clock()
            self._queues.remove(last_used)
            self._queues.append(last_used)
            self._served = True
        return last_used
