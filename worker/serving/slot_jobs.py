"""The jobs of a denoising loop: which of them the next call of the model takes, and which wait."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from storage.jobs.values import ClaimedJob
from storage.rules.states import Priority
from worker.rendering.backend import Slot
from worker.serving.call_pace import CallPace

#: Of one priority, calls of other kinds may go before the first job's so often in a row.
_MOST_PASSED = 120
#: So many kinds of pictures have a call's worth of them in hand.
_MOST_KINDS = 4


@dataclass(eq=False)
class SlotJob:
    """A job in hand, and its slot once it has begun."""

    job: ClaimedJob
    #: Counts up with each job that came.
    number: int
    slot: Slot | None = None
    #: Of the device, its share.
    seconds: float = 0.0
    began_at: float = 0.0
    #: It is called alone from now on: a call of several failed, and which of them is to blame is not known.
    alone: bool = False
    #: Whether the last call left it out although it had begun.
    aside: bool = False
    #: How many calls of other kinds went before it since it was the first one.
    passed: int = 0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.job.spec.loop_key()

    @property
    def rank(self) -> tuple[bool, int, int]:
        """By what jobs are ordered: suspects once nothing else is in hand, then by priority, then as they came."""
        return (self.job.suspect, self.job.priority, self.number)

    @property
    def is_at_its_last_call(self) -> bool:
        """Whether the next call that it is in is its last one."""
        return self.slot is not None and self.slot.made + 1 >= self.slot.calls

    @property
    def is_single(self) -> bool:
        """Whether no other may be in its calls."""
        return self.alone or self.job.suspect or self.job.replay is not None


class SlotJobs:
    """Jobs in hand in the order in which they are served."""

    def __init__(self) -> None:
        self._jobs: list[SlotJob] = []
        self._came = 0

    def __iter__(self) -> Iterator[SlotJob]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in jobs:
            self._came += 1
            self._jobs.append(SlotJob(job=job, number=self._came))
        self._jobs.sort(key=lambda one: one.rank)

    def remove(self, gone: Sequence[SlotJob]) -> None:
        self._jobs = [one for one in self._jobs if one not in gone]

    def lead(self) -> SlotJob | None:
        """Return the job that must not wait."""
        return self._jobs[0] if self._jobs else None

    def fullest(self, lead: SlotJob, limit: int) -> SlotJob:
        """Return the job whose call is to be made: the lead, or the first one of those that fill a call better.

        Pictures of a size leave one by one, and those of other sizes cannot take their places. None that is as urgent
        as others waits for ever: after a while the lead goes first, until it has left.
        """
        if lead.is_single or lead.job.priority is Priority.INTERACTIVE or lead.passed >= _MOST_PASSED:
            return lead
        alike = [one for one in self._jobs if one.job.priority == lead.job.priority and not one.is_single]
        counts = Counter(one.key for one in alike)
        most = max(min(limit, count) for count in counts.values())
        if min(limit, counts[lead.key]) == most:
            return lead
        lead.passed += 1
        return next(one for one in alike if min(limit, counts[one.key]) == most)

    def more_to_claim(self, slots: int, held: int, *, deep: bool) -> int:
        """Return how many more jobs to claim, of which so many are held; `deep`: many wait."""
        if held < slots or (deep and held <= slots + slots // 2):
            return (2 * slots if deep else slots) - held
        return slots if deep and held < self.may_grow_to(slots) else 0

    def may_grow_to(self, slots: int) -> int:
        """Return how many are of use in hand while many wait: with a call's worth of each kind, one of them is full."""
        kinds = len({one.key for one in self._jobs if not one.is_single})
        return slots * min(kinds, _MOST_KINDS) if kinds > 1 else 0

    def next_call(self, lead: SlotJob, limit: int, pace: CallPace, *, at_most: int = 0) -> list[SlotJob]:
        """Return the jobs of the next call: the lead, and the next ones that can be denoised with it.

        Beside those that somebody waits for at a screen, others only as far as they do not slow them down.

        Args:
            at_most: beyond the limit, those that have begun and are as urgent as the lead, up to so many in all.
        """
        if lead.is_single:
            return [lead]
        alike = [one for one in self._jobs if one.key == lead.key and not one.is_single]
        begun = [one for one in alike[limit:] if one.slot is not None and one.job.priority == lead.job.priority]
        found = alike[:limit] + begun[: max(0, at_most - limit)]
        urgent = sum(one.job.priority is Priority.INTERACTIVE for one in found)
        if 0 < urgent < len(found):
            return found[: urgent + pace.beside(lead.key, urgent, len(found) - urgent)]
        return found

    def not_begun(self) -> list[SlotJob]:
        return [one for one in self._jobs if one.slot is None]

    def begun(self) -> list[SlotJob]:
        return [one for one in self._jobs if one.slot is not None]

    def has_suspect(self) -> bool:
        return any(one.job.suspect for one in self._jobs)

    def less_urgent(self, limit: int) -> dict[Priority, int]:
        """Return, for each priority, how many of the next call something of it would make step aside."""
        return {priority: sum(one.job.priority > priority for one in self._jobs[:limit]) for priority in Priority}
