"""What is told of slots, by a scripted run: calls, rows, joins, steps aside, and how long each was at the device."""

from types import SimpleNamespace

import pytest

from storage.rules.states import Priority
from tests.unit.slot_stage import SettledPace, Stage, job

INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """One whose calls take no time but by its own clock."""
    stage = Stage()
    for module in ("denoising", "claims_ahead"):
        monkeypatch.setattr(f"worker.serving.{module}.time", SimpleNamespace(monotonic=lambda: stage.now))
    return stage


def test_pictures_that_leave_together_were_at_the_device_for_as_long_as_each_was(stage: Stage) -> None:
    stage.queue.add(job(1, 10), job(2, 5))

    def before(_: list[int]) -> None:
        if len(stage.model.ticks) == 3:
            stage.queue.add(job(3, 5))
        stage.takes(1.0)

    stage.model.before = before
    stage.run()
    begun = [next(at for at, seeds in enumerate(stage.model.ticks) if number in seeds) for number in (1, 2, 3)]
    assert begun == [0, 0, 5]
    # From these the time from submission to the first call is told.
    assert [stage.queue.done[number].elapsed_seconds for number in (1, 2, 3)] == [10, 5, 5]


def test_the_counts_of_slots_are_those_of_the_calls_that_were_made(stage: Stage) -> None:
    stage.queue.add(job(1, 20, BULK), job(2, 20, BULK))
    stage.pace = SettledPace({1: 1.0, 2: 1.8})

    def before(_: list[int]) -> None:
        if len(stage.model.ticks) == 10:
            stage.queue.add(job(3, 4, INTERACTIVE))
        stage.takes(1.8)

    stage.model.before = before
    stage.run()
    assert stage.model.ticks == [[1, 2]] * 11 + [[3]] * 4 + [[1, 2]] * 9
    counts = stage.counter.idle()
    assert counts is not None
    # Each call of the fake model computes four rows.
    assert (counts.ticks, counts.rows_used, counts.rows_computed) == (24, 44, 96)
    # The urgent one joined nobody: both others stepped aside, once.
    assert (counts.joined, counts.stepped_aside) == (0, 2)
    assert (counts.used, counts.aside, counts.ahead) == (0, 0, 0)


def test_whoever_begins_beside_others_that_had_begun_has_joined_them(stage: Stage) -> None:
    stage.queue.add(job(1, 10), job(2, 3), job(3, 3), job(4, 4))
    stage.model.before = lambda _: stage.takes(0.02)
    stage.run()
    assert stage.model.ticks == [[1, 2]] * 3 + [[1, 3]] * 3 + [[1, 4]] * 4
    counts = stage.counter.idle()
    assert counts is not None
    assert (counts.joined, counts.stepped_aside, counts.ticks, counts.rows_used) == (2, 0, 10, 20)
