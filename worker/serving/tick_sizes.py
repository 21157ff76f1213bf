"""How many slots a loop's calls are made for: the limit, or more or fewer while those are tried."""

from collections.abc import Sequence
from dataclasses import replace

from storage.fleet.learned_limits import LimitReason
from storage.rules.states import Priority
from storage.spec.models import Model
from worker.serving.batch_limits import BatchLimits, CallLimit, is_learned
from worker.serving.slot_jobs import SlotJob, SlotJobs

#: Calls of a sample.
_CALLS = 8
#: An urgent picture waits for a whole call, and so does whoever cancels.
_LONGEST_CALL_SECONDS = 2.0


class TickSizes:
    """Chooses limits for the calls of one loop, and tells `BatchLimits` what they took."""

    def __init__(self, limits: BatchLimits, model: Model) -> None:
        self._limits = limits
        self._model = model
        #: Of each sample under way, by loop key and number of pictures: rows of each call, and seconds.
        self._samples: dict[tuple[str, int], list[tuple[int, float]]] = {}

    def choose(self, lead: SlotJob, held: SlotJobs, *, waiting: int) -> CallLimit:
        """Return the limit of the next call; those beyond it that have begun go on (`goes_on`).

        Args:
            held: all that is in hand.
            waiting: how many wait in the queue, as far as it was counted.
        """
        limit = self._limits.limit(self._model, lead.job)
        if not is_learned(self._model) or lead.is_single or any(_is_urgent(one) for one in held):
            return limit
        begun = sum(one.slot is not None and one.key == lead.key for one in held)
        tried = self._limits.trial(self._model, lead.job, lead.key, longest=_LONGEST_CALL_SECONDS)
        if tried is not None and self._may_try(tried, limit, begun=begun, waiting=waiting):
            limit = replace(limit, pictures=tried, reason=LimitReason.TRIAL)
        return limit

    def goes_on(self, limit: CallLimit) -> int:
        """Return for how many a call may be made so that whoever has begun does not step aside for a trial's end."""
        return limit.fits if is_learned(self._model) else limit.pictures

    def measures(self, lead: SlotJob) -> bool:
        """Tell whether it is of use how long a call takes."""
        return not lead.is_single and self._limits.is_searching(self._model, lead.job)

    def took(self, called: Sequence[SlotJob], *, rows: int, seconds: float) -> None:
        """Note a call of so many rows of pictures, and how long the device took for it once all had slots."""
        lead = called[0]
        # Where pictures join and leave at each call, some are of fewer.
        sample = self._samples.setdefault((lead.key, len(called)), [])
        sample.append((max(1, rows), seconds))
        if len(sample) < _CALLS:
            return
        # Of all calls, not the fastest: short ones are the likeliest to meet no other program.
        spent = sum(seconds for _, seconds in sample)
        # Guided pictures have two rows: a call of others is not faster for its size.
        share = spent / sum(rows for rows, _ in sample)
        self._limits.took(self._model, lead.job, lead.key, pictures=len(called), share=share, seconds=spent / _CALLS)
        sample.clear()

    def _may_try(self, tried: int, limit: CallLimit, *, begun: int, waiting: int) -> bool:
        if tried > limit.pictures:
            return limit.reason is not LimitReason.MEMORY and waiting >= self._limits.enough(self._model, tried)
        return begun <= tried


def _is_urgent(one: SlotJob) -> bool:
    return one.job.priority is Priority.INTERACTIVE
