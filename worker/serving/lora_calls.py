"""Whether pictures with different LoRAs share calls of the model, or each set of LoRAs has calls of its own.

Matrices of each row's own cost more than matrices that are all rows', and several small calls more than a large one:
which of them is less depends on the device and the model. Both are tried, in turns, on the calls that come.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from storage.rules.states import Priority
from storage.spec.models import DiffusersModel, Model
from worker.serving.slot_jobs import SlotJob

log = logging.getLogger(__name__)

#: Calls apart that need so much of the time are better; less is chance, and bits would change for it.
_BETTER = 0.9
#: Of calls of a kind, so many are made before any is tried: what passes is not worth it.
_BEFORE = 4
#: Calls of a trial, in turns; the first one of each way may have to prepare kernels and is not counted.
_TRIAL_CALLS = 8
#: Whoever took a core may be gone, and LoRAs have other ranks.
_AGAIN_SECONDS = 900.0
_TRIALS_AN_HOUR = 12
#: An urgent picture waits for a whole call, and so does whoever cancels.
_LONGEST_CALL_SECONDS = 30.0
#: Kinds of calls that are remembered.
_MOST_KINDS = 500


@dataclass(frozen=True, kw_only=True)
class MixedKind:
    """What it depends on which way is faster: numbers are rounded up to powers of two, for pictures come and go."""

    model: str
    key: str
    pictures: int
    #: Of different LoRAs; having none is one.
    sets: int


@dataclass(frozen=True, kw_only=True)
class CallWay:
    """How the next call is made."""

    #: Each set of LoRAs by itself, one after the other.
    apart: bool = False
    #: Of pictures with different LoRAs.
    mixed: bool = False
    #: The kind for whose trial it is timed; None: it is not.
    tried: MixedKind | None = None


@dataclass
class _KnownCalls:
    apart: bool = False
    calls: int = 0
    tried_at: float | None = None
    #: Seconds of the calls of the trial under way, together and apart in turns; None: there is none.
    trial: list[float] | None = None


@dataclass
class LoraCalls:
    """Learns from the calls of one process, which has one device."""

    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[MixedKind, _KnownCalls] = field(default_factory=OrderedDict)
    _trials: deque[float] = field(default_factory=lambda: deque(maxlen=_TRIALS_AN_HOUR))

    def choose(self, model: Model, called: Sequence[SlotJob], *, may_try: bool = True) -> CallWay:
        """Return how to make a call for these jobs.

        Args:
            may_try: whether the call may be one of a trial.
        """
        sets = {tuple((one.job.spec.loras or {}).items()) for one in called}
        if len(sets) < 2 or called[0].is_single:
            return CallWay()
        if isinstance(model, DiffusersModel) and model.compile != "none":
            # Each number of rows is compiled by itself, in minutes.
            return CallWay(mixed=True)
        kind = MixedKind(model=model.alias, key=called[0].key, pictures=_power(len(called)), sets=_power(len(sets)))
        known = self._of(kind)
        if not may_try or any(one.job.priority is Priority.INTERACTIVE for one in called):
            # Who waits at a screen gets what is known to be good.
            return CallWay(apart=known.apart, mixed=True)
        known.calls += 1
        if known.trial is None and self._is_due(known):
            known.trial = []
            self._trials.append(self.clock())
        if known.trial is None:
            return CallWay(apart=known.apart, mixed=True)
        return CallWay(apart=len(known.trial) % 2 == 1, mixed=True, tried=kind)

    def took(self, way: CallWay, seconds: float) -> None:
        """Note how long a call took that was made for a trial."""
        if way.tried is None or (known := self._of(way.tried)).trial is None:
            return
        if len(known.trial) % 2 != way.apart:
            # A call of the trial failed, and this is no next one.
            return
        known.trial.append(seconds)
        if seconds > _LONGEST_CALL_SECONDS:
            known.trial, known.tried_at = None, self.clock()
        elif len(known.trial) == _TRIAL_CALLS:
            together, apart = min(known.trial[2::2]), min(known.trial[3::2])
            known.apart = apart < _BETTER * together
            known.trial, known.tried_at = None, self.clock()
            log.info(
                "calls of different LoRAs tried",
                extra={
                    "model": way.tried.model,
                    "pictures": way.tried.pictures,
                    "sets": way.tried.sets,
                    "together": round(together, 4),
                    "apart": round(apart, 4),
                    "chosen": "apart" if known.apart else "together",
                },
            )

    def _is_due(self, known: _KnownCalls) -> bool:
        now = self.clock()
        if len(self._trials) == _TRIALS_AN_HOUR and now - self._trials[0] < 3600:
            return False
        return known.calls > _BEFORE and (known.tried_at is None or now - known.tried_at >= _AGAIN_SECONDS)

    def _of(self, kind: MixedKind) -> _KnownCalls:
        known = self._known.setdefault(kind, _KnownCalls())
        self._known.move_to_end(kind)
        while len(self._known) > _MOST_KINDS:
            self._known.popitem(last=False)
        return known


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
