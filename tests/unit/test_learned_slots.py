"""How many slots a loop has where the registry does not say: tried while much waits, never at anybody's expense."""

import time
from collections.abc import Callable

import pytest

from storage.errors import OutOfMemory
from storage.fleet.learned_limits import CallKind, LearnedLimit
from storage.rules.states import Priority
from storage.spec.entry_hash import entry_hash
from tests.unit.slot_stage import MODEL, Stage, job, raising

pytestmark = pytest.mark.slow

LEARNING = MODEL.model_copy(update={"batch_limit": None})
KIND = CallKind(model="m", entry=entry_hash(LEARNING), width=8, height=8, device_name="d")


def costing(seconds: float) -> Callable[[list[int]], None]:
    """Let a call take so long, however many its pictures."""
    return lambda _: time.sleep(seconds)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def run(stage: Stage, batch_limit: int | None = None) -> list[int]:
    """Run loops until nothing waits; return how many pictures each call had."""
    while stage.queue.jobs:
        stage.run(batch_limit=batch_limit)
    return [len(seeds) for seeds in stage.model.ticks]


def test_where_more_are_faster_a_deep_backlog_leads_to_more_slots(stage: Stage) -> None:
    stage.model.before = costing(0.006)
    stage.queue.add(*(job(number, 12) for number in range(1, 401)))
    sizes = run(stage)
    assert stage.learned.known[KIND].pictures >= 16
    assert {8, 16} <= set(sizes)
    assert stage.calls_of() == dict.fromkeys(range(1, 401), 12)
    assert (len(stage.queue.done), stage.queue.faults) == (400, {})


def test_where_more_are_slower_few_slots_stay_and_nobody_stepped_aside_for_a_trial(stage: Stage) -> None:
    stage.model.before = lambda seeds: time.sleep(0.004 if len(seeds) <= 8 else 0.04)
    stage.queue.add(*(job(number, 12) for number in range(1, 401)))
    sizes = run(stage)
    assert max(sizes) == 16
    assert stage.learned.known.get(KIND, LearnedLimit(pictures=8, settled=False)).pictures <= 8
    counts = stage.counter.idle()
    assert counts is not None
    assert counts.stepped_aside == 0
    assert stage.calls_of() == dict.fromkeys(range(1, 401), 12)


def test_what_the_registry_says_holds(stage: Stage) -> None:
    stage.model.before = costing(0.003)
    stage.queue.add(*(job(number, 12) for number in range(1, 201)))
    assert max(run(stage, batch_limit=8)) == 8
    assert stage.learned.known == {}


def test_nothing_is_tried_while_little_waits(stage: Stage) -> None:
    stage.model.before = costing(0.003)
    for first in range(1, 200, 24):
        # Never twice sixteen.
        stage.queue.add(*(job(number, 12) for number in range(first, first + 24)))
        run(stage)
    assert max(len(seeds) for seeds in stage.model.ticks) == 8


def test_nothing_is_tried_with_those_that_somebody_waits_for(stage: Stage) -> None:
    stage.model.before = costing(0.003)
    stage.queue.add(*(job(number, 12, Priority.INTERACTIVE) for number in range(1, 201)))
    assert max(run(stage)) == 8
    assert stage.learned.known == {}


def test_memory_that_a_trial_exceeds_is_nobodys_fault_and_is_not_tried_again(stage: Stage) -> None:
    exceeded: list[int] = []

    def before(seeds: list[int]) -> None:
        time.sleep(0.004)
        if len(seeds) > 8:
            exceeded.append(len(seeds))
        raising(OutOfMemory("full"), lambda seeds: len(seeds) > 8)(seeds)

    stage.model.before = before
    stage.queue.add(*(job(number, 12) for number in range(1, 401)))
    assert max(run(stage)) == 8
    assert len(exceeded) == 1
    assert [limit.pictures for limit in stage.limits.known.values()] == [exceeded[0] // 2]
    assert (len(stage.queue.done), stage.queue.faults) == (400, {})
    assert stage.calls_of() == dict.fromkeys(range(1, 401), 12)


def test_what_another_worker_learned_is_used_from_the_start_as_far_as_it_is_ones_share(stage: Stage) -> None:
    stage.learned.known[KIND] = LearnedLimit(pictures=32, settled=True)
    stage.model.before = costing(0.01)
    stage.queue.add(*(job(number, 40) for number in range(1, 61)))
    assert max(run(stage)) == 32

    # With three others, of twenty that wait five are this one's share: it takes eight, as ever.
    others = Stage(workers=4)
    others.learned.known[KIND] = LearnedLimit(pictures=32, settled=True)
    others.model.before = costing(0.01)
    others.queue.add(*(job(number, 40) for number in range(1, 29)))
    assert max(run(others)) == 8


def test_what_was_learned_for_another_entry_is_not_used(stage: Stage) -> None:
    other = LEARNING.model_copy(update={"seconds_per_step": 0.5})
    assert entry_hash(other) != KIND.entry
    assert entry_hash(LEARNING.model_copy(update={"num_inference_steps": 5})) == KIND.entry
    stage.learned.known[CallKind(**{**KIND.__dict__, "entry": entry_hash(other)})] = LearnedLimit(
        pictures=32, settled=True
    )
    stage.model.before = costing(0.005)
    stage.queue.add(*(job(number, 20) for number in range(1, 17)))
    assert max(run(stage)) == 8
