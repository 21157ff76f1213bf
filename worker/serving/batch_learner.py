"""How many pictures a call is best made for, where the registry does not say: learned from what calls take.

What one worker finds, the others of its kind start with, and itself after a restart.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.fleet.learned_limits import CallKind, LearnedLimit, LimitReason
from storage.jobs.values import ClaimedJob
from storage.spec.file_marks import MarkedEntries
from storage.spec.models import Model
from worker.serving.knee_search import KneeSearch
from worker.serving.services import SharedLearnedLimits

log = logging.getLogger(__name__)

#: No more are learned to be best, whatever the device: others wait for the whole call.
_MOST_LEARNED = 64
#: How soon a worker sees what the others have learned.
_FRESH_SECONDS = 30.0
#: When what was found is looked for again: other programs come and go.
_AGAIN_SECONDS = 86400.0
#: Samples by which a pace is known. Where numbers of threads are tried, too, a trial is two of each.
_SAMPLES, _SAMPLES_WITH_THREADS = 2, 4
#: Kinds of calls that are remembered.
_MOST_KINDS = 500


@dataclass
class _Known:
    """What is known of a kind of calls, and since when."""

    search: KneeSearch
    #: Whether anybody has learned it.
    learned: bool = False
    settled_at: float = 0.0
    looked_at: float = field(default=float("-inf"))


class BatchLearner:
    """Learns for one device process."""

    def __init__(
        self,
        shared: SharedLearnedLimits,
        *,
        device_name: str,
        tries_threads: bool = False,
        checked: Callable[[CallKind], LearnedLimit | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            device_name: with the number of threads, on a CPU.
            tries_threads: whether calls are made by one thread now and by several then (`ThreadChoice`).
            checked: what `farm models check` found.
        """
        self._shared = shared
        self._device_name = device_name[:128]
        self._samples = _SAMPLES_WITH_THREADS if tries_threads else _SAMPLES
        self._checked = checked
        self._clock = clock
        self._known: OrderedDict[CallKind, _Known] = OrderedDict()
        self._entries = MarkedEntries(clock)

    def limit(self, model: Model, job: ClaimedJob) -> tuple[int, LimitReason]:
        """Return how many pictures like this job's are best called together, as far as is known."""
        known = self._of(self._kind(model, job), model)
        return known.search.size, LimitReason.LEARNED if known.learned else LimitReason.DEFAULT

    def is_searching(self, model: Model, job: ClaimedJob) -> bool:
        """Tell whether more or fewer are still to be tried."""
        return not self._of(self._kind(model, job), model).search.settled

    def trial(self, model: Model, job: ClaimedJob, key: str, *, most: int, longest: float) -> int | None:
        """Return with how many pictures to try a call, if enough wait; None: with none.

        Args:
            key: what a call's pictures have in common.
            most: no more pictures than this.
            longest: no call that is expected to take longer, in seconds.
        """
        kind = self._kind(model, job)
        search = self._of(kind, model).search
        if search.settled:
            return None
        tried = search.candidate(key, most=min(most, _MOST_LEARNED), longest=longest, now=self._clock())
        if search.settled:
            self._found(kind)
        return tried

    def took(self, model: Model, job: ClaimedJob, key: str, *, pictures: int, share: float, seconds: float) -> None:
        """Note what calls of so many pictures took.

        Args:
            share: seconds for a picture's share of a call.
            seconds: for the whole call.
        """
        kind = self._kind(model, job)
        search = self._of(kind, model).search
        if search.note(key, pictures, share=share, seconds=seconds, now=self._clock()):
            self._found(kind)

    def _found(self, kind: CallKind) -> None:
        known = self._known[kind]
        pictures, settled = known.search.size, known.search.settled
        known.learned, known.settled_at = True, self._clock()
        size = f"{kind.width}x{kind.height}"
        log.info(
            "batch limit learned",
            extra={"model": kind.model, "size": size, "pictures": pictures, "settled": settled},
        )
        self._shared.learn(kind, LearnedLimit(pictures=pictures, settled=settled))

    def _of(self, kind: CallKind, model: Model) -> _Known:
        now = self._clock()
        known = self._known.setdefault(kind, _Known(KneeSearch(model.batch, self._samples)))
        self._known.move_to_end(kind)
        while len(self._known) > _MOST_KINDS:
            self._known.popitem(last=False)
        if known.search.settled and now - known.settled_at > _AGAIN_SECONDS:
            known.search = KneeSearch(known.search.size, self._samples)
        if not known.search.settled and now - known.looked_at > _FRESH_SECONDS:
            known.looked_at = now
            self._adopt(known, _younger(self._shared.of(kind), self._checked(kind)))
        return known

    def _adopt(self, known: _Known, found: LearnedLimit | None) -> None:
        """Go on from what was learned before, or by another worker meanwhile."""
        if found is None or (known.learned and not found.settled):
            return
        pictures = min(found.pictures, _MOST_LEARNED)
        if found.settled and found.age <= _AGAIN_SECONDS:
            known.search = KneeSearch(pictures, self._samples, settled=True)
        elif not known.learned:
            known.search = KneeSearch(pictures, self._samples)
        known.learned, known.settled_at = True, self._clock() - found.age

    def _kind(self, model: Model, job: ClaimedJob) -> CallKind:
        return CallKind(
            model=model.alias,
            # Of other files under the same names other numbers may be best.
            entry=self._entries.of(model),
            width=job.spec.width,
            height=job.spec.height,
            device_name=self._device_name,
        )


def _younger(*found: LearnedLimit | None) -> LearnedLimit | None:
    known = [limit for limit in found if limit is not None]
    return min(known, key=lambda limit: limit.age) if known else None
