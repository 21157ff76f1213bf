"""By how many threads a CPU renders: what is tried when, and what comes of it."""

from collections.abc import Sequence

import pytest

from storage.jobs.values import ClaimedJob
from storage.rules.states import Priority
from storage.spec.models import DiffusersModel, Model, SimulatedModel
from storage.spec.picture import Request
from storage.spec.registry import Registry
from worker.serving.thread_choice import ThreadChoice

MODEL = SimulatedModel(alias="tiny", kind="simulated")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def batch(n: int = 8, *, priority: Priority = Priority.NORMAL, threads: int | None = None) -> Sequence[ClaimedJob]:
    registry = Registry(models={"tiny": MODEL}, default="tiny", loras={})
    spec = registry.resolve(Request.parse({"prompt": "a", "model": "tiny"}), seed=1)
    return [
        ClaimedJob(id=i, render_id="r", index=i, spec=spec, fence=1, attempt=1, priority=priority, threads=threads)
        for i in range(n)
    ]


class Device:
    """A CPU on which batches take as long as it says, by the number of threads."""

    def __init__(self, seconds: dict[int, float], *, most: int | None = 4, model: Model = MODEL) -> None:
        self.seconds = seconds
        self.clock = Clock()
        self.model = model
        self.choice = ThreadChoice(most, self.clock)

    def renders(self, batches: int, jobs: Sequence[ClaimedJob] | None = None) -> list[int | None]:
        """Return by how many threads each was rendered."""
        used = []
        for _ in range(batches):
            work = batch() if jobs is None else jobs
            threads = self.choice.choose(self.model, work)
            seconds = self.seconds[threads or 0]
            self.clock.now += seconds
            self.choice.rendered(self.model, work, threads=threads, seconds=seconds)
            used.append(threads)
        return used


def test_one_thread_is_tried_after_two_batches_and_kept_if_faster() -> None:
    device = Device({4: 2.0, 1: 1.2})
    assert device.renders(8) == [4, 4, 1, 1, 1, 1, 1, 1]


def test_several_threads_stay_if_one_is_not_clearly_faster() -> None:
    device = Device({4: 2.0, 1: 1.9})
    assert device.renders(8) == [4, 4, 1, 1, 4, 4, 4, 4]


def test_a_first_batch_that_prepares_kernels_decides_nothing() -> None:
    device = Device({4: 30.0, 1: 1.9})
    device.renders(1)
    device.seconds[4] = 1.0
    assert device.renders(6) == [4, 1, 1, 4, 4, 4]


def test_a_neighbour_that_takes_a_core_leads_to_another_trial_and_back_when_it_has_gone() -> None:
    device = Device({4: 1.0, 1: 2.0})
    assert device.renders(6)[-1] == 4
    device.seconds[4] = 3.0
    # Three slow batches in a row, then the trial.
    assert device.renders(8) == [4, 4, 4, 1, 1, 1, 1, 1]
    device.seconds[4] = 1.0
    assert set(device.renders(20)) == {1}
    device.clock.now += 900
    assert device.renders(4) == [4, 4, 4, 4]


def test_a_slow_batch_just_before_a_trial_does_not_decide_it() -> None:
    device = Device({4: 1.0, 1: 2.0})
    device.renders(6)
    device.clock.now += 900
    device.seconds[4] = 5.0
    # No trial by itself, so that the slow one is the last before it.
    assert device.renders(1, batch(priority=Priority.INTERACTIVE)) == [4]
    assert device.renders(3) == [1, 1, 4]


def test_a_slow_batch_now_and_then_is_no_fall() -> None:
    device = Device({4: 1.0, 1: 2.0})
    device.renders(6)
    for _ in range(5):
        device.seconds[4] = 5.0
        assert device.renders(2) == [4, 4]
        device.seconds[4] = 1.0
        assert device.renders(1) == [4]


def test_where_the_neighbour_stays_and_one_thread_is_no_better_it_is_not_tried_over_and_over() -> None:
    device = Device({4: 1.0, 1: 2.0})
    device.renders(6)
    device.seconds = {4: 3.0, 1: 6.0}
    assert device.renders(30).count(1) == 2


def test_trials_are_bounded_by_the_hour() -> None:
    device = Device({4: 1.0, 1: 2.0})
    tried = [device.renders(5, batch(n)) for n in range(1, 21)]
    assert sum(1 in used for used in tried) == 12
    device.clock.now += 3600
    assert 1 in device.renders(5, batch(20))


def test_who_waits_at_a_screen_is_no_trial() -> None:
    device = Device({4: 2.0, 1: 1.0})
    urgent = batch(priority=Priority.INTERACTIVE)
    assert device.renders(10, urgent) == [4] * 10
    assert device.renders(1) == [1]
    # Nor while one is under way.
    assert device.renders(2, urgent) == [4, 4]
    assert device.renders(1) == [1]
    assert device.renders(1, urgent) == [1]


def test_no_trial_where_it_would_take_long() -> None:
    assert Device({4: 8.0, 1: 1.0}).renders(6) == [4] * 6


def test_each_size_of_batch_is_learned_by_itself() -> None:
    device = Device({4: 2.0, 1: 1.0})
    device.renders(6, batch(8))
    assert device.renders(1, batch(2)) == [4]
    assert device.renders(1, batch(8)) == [1]


def test_a_job_that_says_its_threads_gets_them_and_teaches_nothing() -> None:
    device = Device({4: 2.0, 1: 1.0, 3: 9.0, 7: 9.0})
    assert device.renders(5, batch(threads=3)) == [3] * 5
    assert device.renders(2) == [4, 4]
    none = Device({0: 1.0, 7: 1.0}, most=None)
    assert none.renders(1, batch(threads=7)) == [7]


@pytest.mark.parametrize(("most", "expected"), [(None, None), (1, 1)])
def test_without_a_choice_nothing_is_tried(most: int | None, expected: int | None) -> None:
    assert Device({0: 1.0, 1: 1.0}, most=most).renders(8) == [expected] * 8


def test_compiled_models_keep_the_threads_that_they_were_compiled_for() -> None:
    compiled = DiffusersModel(alias="tiny", kind="diffusers", source="shipped:shapes", compile="default")
    assert Device({4: 2.0, 1: 1.0}, model=compiled).renders(8) == [4] * 8
