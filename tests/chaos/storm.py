"""The schedule: which fault when, drawn from the seed; and its execution, a few faults at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from tests.chaos.deck import FAULTS
from tests.chaos.faults import Act, Fault, Part, parts
from tests.chaos.plan import Plan
from tests.chaos.stage import Stage

_LOOK_SECONDS = 0.05
_MOST_WAITING = 8
#: Minutes beyond those asked for in which to reach the number of jobs asked for, as a multiple.
_OVERTIME = 3.0

#: What a job whose worker died needs to run again; without S3 it runs, and is stored later.
_SERVICES = ("redis", "database", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Due:
    """A fault of the schedule."""

    pause: float
    fault: Fault
    seed: int


def schedule(plan: Plan) -> Iterator[Due]:
    """Without end. Faults come as from a deck that is shuffled anew when it is empty: each as often as any other."""
    rng = Random(plan.seed)
    kinds = [fault for fault in FAULTS if plan.database in fault.databases]
    while True:
        rng.shuffle(kinds)
        for fault in kinds:
            yield Due(pause=plan.between.draw(rng), fault=fault, seed=rng.getrandbits(32))


def storm(stage: Stage, check: Callable[[], None]) -> None:
    """Inject faults until the time is over and enough jobs were accepted; returns when each fault has ended.

    Args:
        check: called now and then; raises what a background task ended with.
    """
    targets = parts(stage)
    started = time.monotonic()
    faults = schedule(stage.plan)
    running: list[Future[None]] = []
    # What is due while its part is taken waits, and lets others go first.
    waiting: list[Due] = []
    drawn_at, pause = started, 0.0
    with ThreadPoolExecutor(stage.plan.at_once, thread_name_prefix="fault") as threads:
        while not _enough(stage, time.monotonic() - started):
            check()
            running = _still(running)
            if time.monotonic() - drawn_at >= pause and len(waiting) < _MOST_WAITING:
                due = next(faults)
                waiting.append(due)
                drawn_at, pause = time.monotonic(), due.pause
            for due in list(waiting):
                part = _free(targets[due.fault.part], Random(due.seed)) if len(running) < stage.plan.at_once else None
                if part is not None:
                    waiting.remove(due)
                    running.append(threads.submit(_inject, stage, due, part))
            stage.calm.wait(_LOOK_SECONDS)
        stage.calm.set()
    _still(running)


def _inject(stage: Stage, due: Due, part: Part) -> None:
    token = f"{due.fault.name} {due.seed}"
    if due.fault.part in _SERVICES:
        stage.recoveries.service_goes(token)
    try:
        due.fault.inject(Act(stage=stage, rng=Random(due.seed), part=part, fault=due.fault.name))
    finally:
        stage.recoveries.service_is_back(token)
        part.taken.release()


def _free(candidates: Sequence[Part], rng: Random) -> Part | None:
    """A part that no fault has, taken; of several never the last one: somebody must be there to go on."""
    free = [part for part in candidates if not part.taken.locked()]
    if not free or (len(candidates) > 1 and len(free) == 1):
        return None
    chosen = rng.choice(free)
    # Nobody but this thread takes parts.
    return chosen if chosen.taken.acquire(blocking=False) else None


def _still(running: Sequence[Future[None]]) -> list[Future[None]]:
    """Those that have not ended. Raises what a fault ended with: the driver's own fault, and not the farm's."""
    for future in running:
        if future.done():
            future.result()
    return [future for future in running if not future.done()]


def _enough(stage: Stage, elapsed: float) -> bool:
    if elapsed < stage.plan.seconds:
        return False
    return stage.ledger.jobs_accepted >= stage.plan.jobs or elapsed > stage.plan.seconds * _OVERTIME
