"""How long a device may go without a step before it counts as hung."""

import math
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

#: Nothing shorter counts as hung, however short the steps were before: another program may occupy the device for a
#: while.
_LEAST_SECONDS = 15.0
#: So many times the longest silence seen in healthy batches of a kind: their steps vary by far less.
_TIMES_LONGEST = 10.0


class Watchdog:
    """Knows when the device last made progress, and learns how long it is silent between steps.

    Silences depend on what is rendered, so each kind of batch (model, size, number of pictures) is learned separately,
    from batches that ended well. Until the first one has, `stall_seconds` applies, which leaves time to compile.
    """

    def __init__(self, *, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        self._learned: dict[Hashable, float] = {}
        self._kind: Hashable = None
        self._longest = 0.0
        self._allowed = stall_seconds
        self._seen_at = time.monotonic()

    def begin(self, kind: Hashable) -> None:
        """Expect steps from now on: a batch of this kind goes to the device."""
        with self._lock:
            self._kind, self._longest = kind, 0.0
            self._allowed = self._allowed_for(kind)
            self._seen_at = time.monotonic()

    def step(self) -> None:
        """Note that the device made progress."""
        with self._lock:
            now = time.monotonic()
            self._longest = max(self._longest, now - self._seen_at)
            self._seen_at = now

    def end(self) -> None:
        """Learn from the batch: it is rendered, so its silences were healthy."""
        self.step()
        with self._lock:
            if self._kind is not None:
                self._learned[self._kind] = max(self._longest, self._learned.get(self._kind, 0.0))
        self.rest()

    def rest(self) -> None:
        """Expect nothing: there is no batch at the device, whatever became of the last one."""
        with self._lock:
            self._kind, self._allowed = None, math.inf

    def expect_silence(self, seconds: float) -> None:
        """Allow for so many seconds without steps from now on: loading a model reports none."""
        with self._lock:
            self._kind = None
            self._allowed = seconds
            self._seen_at = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Do not count what happens inside as silence: the device waits for something else, such as an input."""
        with self._lock:
            before, self._allowed = self._allowed, math.inf
        try:
            yield
        finally:
            with self._lock:
                self._allowed = before
                self._seen_at = time.monotonic()

    def silent_for(self) -> float:
        """Return the seconds since the device last made progress."""
        with self._lock:
            return time.monotonic() - self._seen_at

    def stalled(self) -> bool:
        """Tell whether the device has been silent for longer than a healthy one ever is."""
        with self._lock:
            return time.monotonic() - self._seen_at > self._allowed

    def _allowed_for(self, kind: Hashable) -> float:
        longest = self._learned.get(kind)
        if longest is None:
            return self._stall_seconds
        return min(self._stall_seconds, max(_LEAST_SECONDS, _TIMES_LONGEST * longest))
