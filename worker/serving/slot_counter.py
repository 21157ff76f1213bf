"""Counting what a worker's slots do, for those who look at the farm."""

from collections.abc import Sequence

from storage.fleet.slots import LoraCallWay, SlotCounts
from worker.rendering.backend import SlotLoop
from worker.serving.lora_calls import CallWay
from worker.serving.slot_jobs import SlotJob, SlotJobs


class SlotCounter:
    """Counts since the process started."""

    def __init__(self) -> None:
        self._limit = 0
        self._mixed = self._apart = 0
        self._way: LoraCallWay | None = None
        self._ticks = self._joined = self._stepped_aside = self._used = self._computed = 0

    def count(self, called: Sequence[SlotJob], held: SlotJobs, loop: SlotLoop, limit: int, way: CallWay) -> SlotCounts:
        """Count a call that was made for these jobs."""
        self._ticks += 1
        self._mixed += way.mixed
        self._apart += way.apart
        if way.mixed:
            self._way = "trial" if way.tried is not None else "apart" if way.apart else "together"
        used, computed = loop.last_rows
        self._used += used
        self._computed += computed
        in_call = {id(one) for one in called}
        begun = held.begun()
        others_before = any(one.slot is not None and one.slot.made > 1 for one in called)
        self._joined += others_before * sum(one.slot is not None and one.slot.made == 1 for one in called)
        for one in begun:
            aside = id(one) not in in_call
            self._stepped_aside += aside and not one.aside
            one.aside = aside
        return self._counts(limit, used=len(called), aside=sum(one.aside for one in begun), ahead=len(held.not_begun()))

    def idle(self) -> SlotCounts | None:
        """Return what is left of the counts once nothing is in hand; None if there never was a call."""
        return self._counts(self._limit) if self._ticks else None

    def _counts(self, limit: int, *, used: int = 0, aside: int = 0, ahead: int = 0) -> SlotCounts:
        self._limit = limit
        return SlotCounts(
            limit=limit,
            used=used,
            aside=aside,
            ahead=ahead,
            joined=self._joined,
            stepped_aside=self._stepped_aside,
            ticks=self._ticks,
            rows_used=self._used,
            rows_computed=self._computed,
            mixed_ticks=self._mixed,
            apart_ticks=self._apart,
            lora_calls=self._way,
        )
