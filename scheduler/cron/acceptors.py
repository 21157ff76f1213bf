"""Threads that accept what the clock has taken, beside it: a long manifest, or a store that hangs, holds up no other.

Short firings and long ones have threads of their own. One that was tried before counts as long: what hung once is not
to take the place of what never did.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from scheduler.cron.acceptance import Acceptance
from storage.errors import ServiceProblem
from storage.jobs.values import NewJob
from storage.process.logs import LogThrottle
from storage.process.service_loop import run_until_stopped
from storage.renders.firings import ClaimedFiring

log = logging.getLogger(__name__)

#: Each has one connection to the database, and a sweep, a clock, windows and webhooks need theirs
#: (`storage.database.connection.CONNECTIONS`).
SHORT_THREADS = 2
LONG_THREADS = 2
#: A firing whose process died so often while it accepted it has failed: it may be what kills them.
MOST_ATTEMPTS = 5
#: None of its pictures has passed for so long: its thread hangs, and another process may try.
STALL_SECONDS = 900.0
#: How long a stopping process waits for its threads' claims.
_CLOSE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0


class _Lost(Exception):
    """Raised in the middle of an acceptance that another process has taken over."""


@dataclass(kw_only=True)
class _InHand:
    """A firing that a thread accepts."""

    claimed: ClaimedFiring
    clock: Callable[[], float]
    lost: bool = False
    moved_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.moved_at = self.clock()

    def passing(self, jobs: Iterable[NewJob]) -> Iterator[NewJob]:
        """Yield the pictures; raise _Lost as soon as they are another process's to accept."""
        for one in jobs:
            if self.lost:
                raise _Lost
            self.moved_at = self.clock()
            yield one


class Acceptors:
    def __init__(
        self,
        acceptance: Acceptance,
        *,
        renew_seconds: float,
        every_seconds: float,
        most_attempts: int = MOST_ATTEMPTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare threads; nothing is started yet.

        Args:
            renew_seconds: between two renewals of leases.
            every_seconds: between two looks, by one thread for all, for what others have taken, or given back.
        """
        self._acceptance = acceptance
        self._firings = acceptance.firings
        self._renew_seconds = renew_seconds
        self._every_seconds = every_seconds
        self._most_attempts = most_attempts
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._in_hand: dict[tuple[str, float], _InHand] = {}
        self._called: list[threading.Event] = []

    def start(self) -> None:
        """Start the threads, which end with their process; `close()` leaves what they have to others."""
        for number in range(SHORT_THREADS + LONG_THREADS):
            called, long = threading.Event(), number >= SHORT_THREADS
            self._called.append(called)
            name = f"accepts-{'long' if long else 'short'}-{number}"
            threading.Thread(target=self._run, args=(called,), kwargs={"long": long}, name=name, daemon=True).start()
        for work, name in ((self._keep_leases, "firings' leases"), (self._look_out, "firings")):
            threading.Thread(target=work, name=name, daemon=True).start()

    def call(self) -> None:
        """Have the threads look at once, since something was taken."""
        for called in self._called:
            called.set()

    def close(self) -> None:
        """Accept no more, and give back what is in hand, for another process; what its threads still do is in vain.

        Raises ServiceProblem; then leases run out.
        """
        self._closed.set()
        self.call()
        # Threads that claim this moment are waited for, unless the database does not answer.
        if not self._lock.acquire(timeout=_CLOSE_SECONDS):
            return
        try:
            left = [one.claimed for one in self._in_hand.values()]
        finally:
            self._lock.release()
        if left and (given := self._firings.give_all_back(left)):
            log.info("firings given back", extra={"n": given})

    def accept_one(self, *, long: bool) -> bool:
        """Accept a firing, a short one or a long one; False if there is none to accept now. Raises ServiceProblem."""
        if not self._firings.waiting():
            return False
        with self._lock:
            if self._closed.is_set():
                return False
            claimed = self._firings.claim(long=long, besides=self._in_hand)
            if claimed is None:
                return False
            in_hand = self._in_hand[claimed.key] = _InHand(claimed=claimed, clock=self._clock)
        try:
            self._accept(in_hand)
        finally:
            with self._lock:
                del self._in_hand[claimed.key]
        self.call()  # the next one of its schedule may be a long one, or a short one
        return True

    def renew(self) -> None:
        """Renew the leases of what is in hand, but for what hangs. Raises ServiceProblem."""
        with self._lock:
            in_hand = [one for one in self._in_hand.values() if self._clock() - one.moved_at < STALL_SECONDS]
        if not in_hand:
            return
        gone = self._firings.renew([one.claimed for one in in_hand])
        for one in in_hand:
            one.lost = one.lost or one.claimed.key in gone

    def _run(self, called: threading.Event, *, long: bool) -> None:
        throttle = LogThrottle()
        while True:
            called.clear()
            if self._closed.is_set():
                return
            try:
                while self.accept_one(long=long):
                    pass
            except ServiceProblem as error:
                if throttle.passes():
                    log.warning(
                        "service unavailable, retrying until it is back",
                        extra={"action": "accept firings", "error": error},
                    )
            called.wait()

    def look_out(self) -> None:
        """Call the threads if there may be something for them. Raises ServiceProblem.

        That of others, what was given back, and whatever a service that was away kept them from.
        """
        if self._firings.waiting():
            self.call()

    def _keep_leases(self) -> None:
        run_until_stopped(
            self.renew, doing="renew leases of firings", every_seconds=self._renew_seconds, stopping=self._closed
        )

    def _look_out(self) -> None:
        run_until_stopped(
            self.look_out, doing="look for firings", every_seconds=self._every_seconds, stopping=self._closed
        )

    def _accept(self, in_hand: _InHand) -> None:
        claimed = in_hand.claimed
        said = {"schedule": claimed.schedule.name, "owner": claimed.schedule.owner}
        try:
            if claimed.attempt > self._most_attempts:
                last = f": {claimed.trouble}" if claimed.trouble else ", its process died or hung each time"
                self._acceptance.fail(claimed, f"given up after {self._most_attempts} attempts{last}")
            else:
                self._acceptance.accept(claimed, through=in_hand.passing)
        except _Lost:
            log.warning("firing was taken over by another process", extra=said)
        except (ServiceProblem, OSError) as error:
            # The store, the database or this machine's disk: nothing is wrong with the schedule.
            log.warning("firing waits", extra={**said, "error": error})
            self._give_back(in_hand, str(error), counted=False)
        except Exception as error:  # the edge of one firing: whatever is wrong with it, the others go on
            log.exception("firing failed", extra=said)
            self._give_back(in_hand, f"internal error: {type(error).__name__}: {error}", counted=True)

    def _give_back(self, in_hand: _InHand, note: str, *, counted: bool) -> None:
        """Give a firing back, for later; a database that is away is waited for."""
        claimed = in_hand.claimed
        # Each try raises the fence twice: when it is claimed, and when it is given back.
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(claimed.fence // 2, 10), _LONGEST_PAUSE_SECONDS)
        while not (in_hand.lost or self._closed.is_set()):
            try:
                self._firings.give_back(claimed, note=note, after_seconds=pause, counted=counted)
                return
            except ServiceProblem:
                self._closed.wait(self._every_seconds)
