"""A denoising loop between faults, stops and those that must not be parted: who is blamed, who goes back."""

import json
import time
from collections.abc import Sequence

import pytest

from storage.errors import DeviceBroken, OutOfMemory
from storage.jobs.values import ClaimedJob
from storage.rules.states import Priority
from storage.spec.models import DiffusersModel, Model
from tests.unit.slot_stage import Stage, job
from worker.serving.thread_choice import BatchKind, ThreadChoice

INTERACTIVE, NORMAL, BULK = Priority.INTERACTIVE, Priority.NORMAL, Priority.BULK


@pytest.fixture
def stage() -> Stage:
    return Stage()


def slowly(stage: Stage, happens: dict[int, Sequence[ClaimedJob]] | None = None, seconds: float = 0.02) -> None:
    """Make calls take a moment, so that claims are answered beside them; submit these jobs before the n-th call."""

    def before(_: list[int]) -> None:
        time.sleep(seconds)
        stage.queue.add(*(happens or {}).pop(len(stage.model.ticks), ()))

    stage.model.before = before


def together(*numbers: int) -> list[ClaimedJob]:
    return [job(number, 5, INTERACTIVE, together=True) for number in numbers]


# -- what was one pipeline call --------------------------------------------------------------------------------


def test_those_that_were_made_by_one_call_are_not_parted_where_only_some_have_room(stage: Stage) -> None:
    stage.queue.add(job(1, 60), job(2, 60))
    slowly(stage, {10: together(11, 12, 13, 14)})
    assert stage.run(batch_limit=4) == 6
    # There were two slots only.
    assert (stage.model.together, stage.queue.given_back) == ([[11, 12, 13, 14]], [])
    assert sorted(stage.queue.done) == [1, 2, 11, 12, 13, 14]
    assert stage.heartbeat._pictures == 6


@pytest.mark.parametrize("late", [job(11, 5, INTERACTIVE), *together(11)])
def test_who_is_to_stop_begins_nothing_that_it_had_just_claimed(stage: Stage, late: ClaimedJob) -> None:
    stage.queue.add(job(1, 60), job(2, 60))
    slowly(stage, {10: [late]})

    def claiming(head: ClaimedJob) -> None:
        if head.id == late.id:
            stage.stopping = True
            stage.seen_to_stop.wait(60)

    stage.queue.claiming = claiming
    assert stage.run(batch_limit=4) == 2
    assert (stage.model.together, stage.calls_of(), stage.queue.given_back) == ([], {1: 60, 2: 60}, [11])


def test_a_device_that_breaks_in_a_call_of_several_is_to_blame_for_those(stage: Stage) -> None:
    stage.queue.add(job(1, 60), job(2, 60))
    slowly(stage, {10: together(11)})
    slow = stage.model.before

    def before(seeds: list[int]) -> None:
        slow(seeds)
        if 11 in seeds:
            raise DeviceBroken("assert")

    stage.model.before = before
    with pytest.raises(DeviceBroken):
        stage.run(batch_limit=4)
    assert list(stage.queue.faults) == [11]
    assert sorted(stage.queue.given_back) == [1, 2]
    assert stage.leases.ahead() == []


# -- who is blamed ---------------------------------------------------------------------------------------------


def test_a_picture_that_breaks_the_device_while_it_is_admitted_is_blamed(stage: Stage) -> None:
    stage.queue.add(job(1, 60, BULK), job(2, 60, BULK))
    slowly(stage, {10: [job(3, 5, INTERACTIVE)]})

    def admitting(seed: int) -> None:
        if seed == 3:
            raise DeviceBroken("assert")

    stage.model.admitting = admitting
    with pytest.raises(DeviceBroken):
        stage.run()
    assert list(stage.queue.faults) == [3]
    # They stood aside.
    assert sorted(stage.queue.given_back) == [1, 2]


def test_what_stands_aside_is_not_what_the_device_hangs_with(stage: Stage) -> None:
    bulk, urgent = [job(1, 40, BULK), job(2, 40, BULK)], job(3, 5, INTERACTIVE)
    stage.queue.add(*bulk)
    slowly(stage, {10: [urgent]})
    slow, seen = stage.model.before, []

    def before(seeds: list[int]) -> None:
        slow(seeds)
        hanging = stage.leases.at_the_device([urgent, *bulk])
        seen.append((sorted(seeds), sorted(one.id for one in hanging), sorted(one.id for one in stage.leases.ahead())))

    stage.model.before = before
    assert stage.run() == 3
    assert ([3], [3], [1, 2]) in seen
    assert ([1, 2], [1, 2], []) in seen
    assert all(seeds == hanging for seeds, hanging, _ in seen)


# -- others' slots ---------------------------------------------------------------------------------------------


def test_with_each_urgent_picture_come_no_others_that_would_be_held_up_here(stage: Stage) -> None:
    stage.queue.add(*(job(number, 300, BULK) for number in range(1, 5)))
    waiting = [job(number, 5, BULK) for number in range(101, 113)]
    slowly(stage, {0: waiting, **{20 * n: [job(n, 1, INTERACTIVE)] for n in range(5, 11)}})
    slow = stage.model.before
    left: list[int] = []

    def before(seeds: list[int]) -> None:
        slow(seeds)
        if len(stage.model.ticks) == 230:
            left.extend(one.id for one in stage.queue.jobs)
            stage.stopping = True

    stage.model.before = before
    stage.run(batch_limit=4)
    assert {*range(5, 11)} <= stage.queue.done.keys()
    # None of the first four was done: there was no slot for any of these.
    assert left == [one.id for one in waiting]


def test_a_suspect_does_not_wait_for_those_that_come_later(stage: Stage) -> None:
    stage.queue.add(job(1, 5), job(2, 30), job(3, 5, suspect=True), *(job(number, 5) for number in range(4, 40)))
    slowly(stage)
    stage.run()
    first = next(at for at, seeds in enumerate(stage.model.ticks) if 3 in seeds)
    # Only those that were in hand before it.
    assert {seed for seeds in stage.model.ticks[:first] for seed in seeds} <= {1, 2, 4, 5, 6}


# -- how long calls take ---------------------------------------------------------------------------------------


def test_calls_that_are_made_again_teach_nothing_about_other_calls(stage: Stage) -> None:
    class Recording(ThreadChoice):
        timed = 0

        def choose(self, model: Model, jobs: Sequence[ClaimedJob], kind: BatchKind | None = None) -> int | None:
            self.timed += 1
            return super().choose(model, jobs, kind)

    stage.threads = choice = Recording(None)
    said = json.dumps({"calls": [[16, 1, 2, 20]], "decoded": [1, 0]})
    stage.queue.add(job(1, 20, INTERACTIVE, replay=said))
    assert stage.run() == 1
    assert (choice.timed, stage.pace._known(job(1, 20).spec.loop_key())) == (0, [])
    stage.queue.add(job(2, 20))
    assert stage.run() == 1
    assert (choice.timed, stage.pace._known(job(2, 20).spec.loop_key())) == (3, [1])


def test_the_watchdog_learns_from_calls_and_gives_time_to_admit(stage: Stage) -> None:
    stage.queue.add(job(1, 40), job(2, 5))
    allowed: dict[str, list[float]] = {"admitting": [], "calling": []}
    slowly(stage, {10: [job(3, 5)]})
    slow = stage.model.before

    def before(seeds: list[int]) -> None:
        slow(seeds)
        allowed["calling"].append(stage.watchdog._allowed)

    stage.model.before = before
    stage.model.admitting = lambda _: allowed["admitting"].append(stage.watchdog._allowed)
    assert stage.run() == 3
    # As long as anything may take, and as long as is known: a few times of hardly anything, which is 15 s.
    assert allowed["admitting"] == [60, 60, 60]
    assert (allowed["calling"][0], allowed["calling"][-1]) == (60, 15)


def test_each_shape_of_a_compiled_model_may_take_its_time(stage: Stage) -> None:
    compiled = DiffusersModel(kind="diffusers", alias="m", source="x", compile="default", width=8, height=8)
    stage.queue.add(job(1, 20), job(2, 20))
    allowed = []
    stage.model.before = lambda _: allowed.append(stage.watchdog._allowed)
    assert stage.run(model=compiled) == 2
    # A call of as many pictures may be of another shape, and be compiled for minutes.
    assert set(allowed) == {60}


def test_memory_that_runs_out_while_pictures_are_admitted_costs_none(stage: Stage) -> None:
    stage.queue.add(*(job(number, 5) for number in (1, 2, 3, 4)))
    admitted: list[int] = []

    def admitting(seed: int) -> None:
        admitted.append(seed)
        if len(admitted) == 3:
            raise OutOfMemory("full")

    stage.model.admitting = admitting
    assert stage.run(batch_limit=4) == 4
    assert stage.calls_of() == dict.fromkeys((1, 2, 3, 4), 5)
    assert stage.queue.faults == {}
