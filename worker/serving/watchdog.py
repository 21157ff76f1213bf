"""How long a device may be silent before it counts as hung."""

import math
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

#: A kernel takes this long only when something is wrong, however short its steps were before: another program may
#: have the device for a while.
_LEAST_SECONDS = 15.0
#: Longer than the longest silence that was seen: a step of the same batch varies by far less.
_TIMES_LONGEST = 10.0


class Watchdog:
    """Knows when the device last did something, and learns how long it is silent between steps.

    Silences differ by what is rendered: each kind of batch (model, size, number of pictures) is learned by itself, once
    a whole batch of it went well. Until then `stall_seconds` holds, which has room for compiling.
    """

    def __init__(self, *, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        self._learned: dict[Hashable, float] = {}
        self._kind: Hashable = None
        self._longest = 0.0
        self._patience = stall_seconds
        self._seen_at = time.monotonic()

    def begin(self, kind: Hashable) -> None:
        """A batch of this kind goes to the device."""
        with self._lock:
            self._kind, self._longest = kind, 0.0
            self._patience = self._patience_for(kind)
            self._seen_at = time.monotonic()

    def step(self) -> None:
        """The device did something."""
        with self._lock:
            now = time.monotonic()
            self._longest = max(self._longest, now - self._seen_at)
            self._seen_at = now

    def end(self) -> None:
        """The batch is rendered: its silences were healthy ones."""
        self.step()
        with self._lock:
            if self._kind is not None:
                self._learned[self._kind] = max(self._longest, self._learned.get(self._kind, 0.0))
        self.rest()

    def rest(self) -> None:
        """Nothing is at the device, whatever became of the last batch."""
        with self._lock:
            self._kind, self._patience = None, math.inf

    def expect_silence(self, seconds: float) -> None:
        """What begins now (loading a model) reports no steps and may take this long."""
        with self._lock:
            self._kind = None
            self._patience = seconds
            self._seen_at = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the device waits for something else, such as an input from the store, it is not at fault."""
        with self._lock:
            before, self._patience = self._patience, math.inf
        try:
            yield
        finally:
            with self._lock:
                self._patience = before
                self._seen_at = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the device last did something."""
        with self._lock:
            return time.monotonic() - self._seen_at

    def stalled(self) -> bool:
        """Whether the device has been silent for longer than it ever is in health."""
        with self._lock:
            return time.monotonic() - self._seen_at > self._patience

    def _patience_for(self, kind: Hashable) -> float:
        longest = self._learned.get(kind)
        if longest is None:
            return self._stall_seconds
        return min(self._stall_seconds, max(_LEAST_SECONDS, _TIMES_LONGEST * longest))
