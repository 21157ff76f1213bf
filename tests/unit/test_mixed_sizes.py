"""Pictures of several sizes in one queue: calls are full, and none waits for ever."""

import random
from types import SimpleNamespace

import pytest

from storage.rules.states import Priority
from tests.unit.slot_stage import FakeSlot, Stage, job
from worker.serving.slot_jobs import SlotJobs

SLOTS = 4


def test_calls_are_full_while_many_of_three_sizes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, dice = Stage(), random.Random(1)
    for module in ("denoising", "claims_ahead"):
        monkeypatch.setattr(f"worker.serving.{module}.time", SimpleNamespace(monotonic=lambda: stage.now))
    stage.queue.add(
        *(job(number, dice.randint(5, 20), Priority.BULK, width=dice.choice([8, 16, 24])) for number in range(1, 251))
    )
    calls: list[int] = []

    def before(seeds: list[int]) -> None:
        stage.takes(0.05)
        if len(stage.queue.jobs) > 4 * SLOTS:
            calls.append(len(seeds))

    stage.model.before = before
    while stage.queue.jobs:
        stage.run(batch_limit=SLOTS)
    assert len(stage.queue.done) == 250
    assert sum(calls) >= 0.95 * SLOTS * len(calls)


def test_the_fullest_call_goes_first_but_the_first_job_waits_only_so_long() -> None:
    jobs = SlotJobs()
    jobs.add([job(1, 5, width=8), *(job(number, 5, width=16) for number in range(2, 7))])
    lead = jobs.lead()
    assert lead is not None
    passed = 0
    while jobs.fullest(lead, SLOTS) is not lead:
        passed += 1
        assert passed < 1000
    assert passed > 20
    # And it goes on until it has left.
    lead.slot = FakeSlot(lead.job.spec, None)
    assert jobs.fullest(lead, SLOTS) is lead


@pytest.mark.parametrize(
    "first", [{"priority": Priority.INTERACTIVE}, {"priority": Priority.NORMAL}, {"suspect": True}]
)
def test_nothing_goes_before_what_is_more_urgent_or_is_called_alone(first: dict[str, object]) -> None:
    jobs = SlotJobs()
    jobs.add([job(1, 5, width=8, **({"priority": Priority.BULK} | first))])  # type: ignore[arg-type]
    lead = jobs.lead()
    assert lead is not None
    others = Priority.INTERACTIVE if first.get("priority") is Priority.INTERACTIVE else Priority.BULK
    jobs.add(job(number, 5, others, width=16) for number in range(2, 9))
    assert jobs.fullest(lead, SLOTS) is lead


def test_no_more_is_in_hand_than_fills_calls_of_each_size() -> None:
    jobs = SlotJobs()
    jobs.add(job(number, 5, width=8) for number in range(1, 4))
    assert jobs.may_grow_to(SLOTS) == 0
    jobs.add(job(number, 5, width=8 * (1 + number % 10)) for number in range(4, 14))
    assert jobs.may_grow_to(SLOTS) == 4 * SLOTS
