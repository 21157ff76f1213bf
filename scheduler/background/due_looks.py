"""Looks at which receivers have messages due: remembered for as long as a look is dear.

A look takes the longer, the more receivers have messages waiting, due or not, of whichever owner: with twenty thousand
it is a second. One after each message that is delivered would hold up everybody's.
"""

import time
from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from storage.events.receivers import DueReceiver

#: Of the time, at most a tenth is spent on looks while messages are under way.
_PAUSE = 9.0
#: Of one owner's receivers, so many are remembered: a choice among them takes a millisecond.
_MOST_OF_ONE_OWNER = 500


class DueLooks:
    """Remembers what the last look found, until the next one may be made."""

    def __init__(self, look: Callable[[], Sequence[DueReceiver]], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._next_at = clock()
        self._due: dict[str, DueReceiver] = {}

    def due(self, *, afresh: bool) -> Collection[DueReceiver]:
        """Return the receivers with messages due; as of the last look if that was a moment ago, unless asked afresh."""
        began = self._clock()
        if afresh or began >= self._next_at:
            self._due = {one.name: one for one in _first_of_each_owner(self._look())}
            ended = self._clock()
            self._next_at = ended + _PAUSE * (ended - began)
        return self._due.values()

    def forget(self, names: Collection[str]) -> None:
        """Leave receivers out until the next look: nothing was due for them after all."""
        for name in names:
            self._due.pop(name, None)


def _first_of_each_owner(found: Sequence[DueReceiver]) -> list[DueReceiver]:
    ordered = sorted(found, key=lambda one: (one.owner, one.failing, one.due_at, one.name))
    return [one for _, some in groupby(ordered, lambda one: one.owner) for one in [*some][:_MOST_OF_ONE_OWNER]]
