"""A denoising loop: who is in which call of the model, and what becomes of every job."""

import json
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed
from storage.rules.states import Priority
from tests.examples import examples
from tests.unit.slot_stage import SettledPace, Stage, job, raising
from worker.serving.call_pace import CallPace

INTERACTIVE, NORMAL, BULK = Priority.INTERACTIVE, Priority.NORMAL, Priority.BULK


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """One whose calls take no time but by its own clock."""
    stage = Stage()
    for module in ("denoising", "claims_ahead"):
        monkeypatch.setattr(f"worker.serving.{module}.time", SimpleNamespace(monotonic=lambda: stage.now))
    return stage


def slowly(stage: Stage) -> None:
    """Make calls take a moment, so that what is asked beside them is answered."""
    stage.model.before = lambda _: stage.takes(0.02)


def test_pictures_leave_when_they_are_done_and_others_join(stage: Stage) -> None:
    stage.queue.add(job(1, 3), job(2, 40), job(3, 3), job(4, 3))
    slowly(stage)
    assert stage.run() == 4
    assert sorted(stage.queue.done) == [1, 2, 3, 4]
    assert stage.calls_of() == {1: 3, 2: 40, 3: 3, 4: 3}
    assert all(len(seeds) <= 2 for seeds in stage.model.ticks)
    # Whoever came later was in calls with the one that takes long.
    assert any(seeds == [2, 3] for seeds in stage.model.ticks)
    assert any(seeds == [2, 4] for seeds in stage.model.ticks)


def test_pictures_that_leave_together_are_completed_together_with_calls_of_their_own(stage: Stage) -> None:
    stage.queue.add(job(1, 3), job(2, 3), job(3, 5))
    stage.run(batch_limit=3)

    one, other, last = (stage.queue.done[number] for number in (1, 2, 3))
    assert one is other is not last
    assert [one.id for one in one.jobs] == [1, 2]
    assert "calls" not in one.recipe
    assert one.own_recipes == {1: {"calls": [[1, None, 0, 3]]}, 2: {"calls": [[1, None, 0, 3]]}}


def test_an_urgent_picture_takes_the_place_of_the_least_urgent_which_goes_on_afterwards(stage: Stage) -> None:
    stage.queue.add(job(1, 60, NORMAL), job(2, 60, BULK))
    stage.pace = SettledPace({1: 1.0, 2: 1.1})

    def before(_: list[int]) -> None:
        stage.takes(0.01)
        if len(stage.model.ticks) == 5:
            stage.queue.add(job(3, 4, INTERACTIVE))

    stage.model.before = before
    stage.run()
    ended = {number: max(at for at, seeds in enumerate(stage.model.ticks) if number in seeds) for number in (1, 2, 3)}
    assert ended[3] < ended[1] == 59
    # The one that stood aside for four calls makes them afterwards.
    assert ended[2] == 63
    assert stage.calls_of() == {1: 60, 2: 60, 3: 4}
    counts = stage.counter.idle()
    assert counts is not None
    assert counts.stepped_aside == 1


def test_an_urgent_picture_that_comes_during_a_call_is_in_the_next_one(stage: Stage) -> None:
    stage.queue.add(job(1, 30, BULK), job(2, 30, BULK))
    stage.pace = SettledPace({1: 1.0, 2: 1.8})

    def before(_: list[int]) -> None:
        if len(stage.model.ticks) == 10:
            stage.queue.add(job(3, 4, INTERACTIVE))
        stage.takes(1.8)

    stage.model.before = before
    stage.run()
    assert [at for at, seeds in enumerate(stage.model.ticks) if 3 in seeds] == [11, 12, 13, 14]


def test_slots_are_asked_for_while_they_make_their_last_call(stage: Stage) -> None:
    stage.queue.add(*(job(number, 3) for number in range(1, 5)))

    def before(_: list[int]) -> None:
        stage.takes(0.01)
        # Too few wait to be claimed ahead: the next two are claimed beside the last call of the first ones.
        assert len(stage.queue.claimed) == (1 if len(stage.model.ticks) < 2 else 2)

    stage.model.before = before
    stage.run()
    assert stage.queue.claimed == [2, 2]
    assert stage.model.ticks == [[1, 2]] * 3 + [[3, 4]] * 3


def test_a_cancelled_picture_frees_its_slot_at_the_next_call(stage: Stage) -> None:
    stage.queue.add(job(1, 30), job(2, 30))

    def before(_: list[int]) -> None:
        if len(stage.model.ticks) == 10:
            stage.queue.lost.add(1)
            stage.look_at_leases()

    stage.model.before = before
    assert stage.run() == 1
    # The call that was under way is its last.
    assert stage.calls_of() == {1: 11, 2: 30}
    assert (sorted(stage.queue.done), stage.queue.faults) == ([2], {})


def test_out_of_memory_halves_the_slots_and_loses_only_the_call(stage: Stage) -> None:
    stage.queue.add(*(job(number, 5) for number in (1, 2, 3, 4)))
    tried: list[int] = []

    def too_many(seeds: list[int]) -> bool:
        tried.append(len(seeds))
        return len(seeds) > 2

    stage.model.before = raising(OutOfMemory("full"), too_many)
    assert stage.run(batch_limit=4) == 4
    assert tried[:2] == [4, 2]
    assert stage.calls_of() == dict.fromkeys((1, 2, 3, 4), 5)
    assert [limit.pictures for limit in stage.limits.known.values()] == [2]


def test_out_of_memory_with_a_single_slot_saves_memory_then_fails(stage: Stage) -> None:
    stage.queue.add(job(1, 5))
    stage.model.before = raising(OutOfMemory("full"), lambda _: True)
    assert stage.run() == 0
    assert stage.model.frugal
    assert [*stage.queue.faults] == [1]
    assert stage.queue.faults[1].endswith("full")


def test_out_of_memory_while_decoding_decodes_one_by_one(stage: Stage) -> None:
    stage.queue.add(job(1, 3), job(2, 3))
    stage.model.developing = raising(OutOfMemory("full"), lambda seeds: len(seeds) > 1)
    assert stage.run() == 2
    assert sorted(stage.queue.done) == [1, 2]


def test_one_whose_step_fails_fails_alone(stage: Stage) -> None:
    stage.queue.add(job(1, 5), job(2, 5))
    stage.model.failing = lambda seed, made: (seed, made) == (1, 3)
    assert stage.run() == 1
    assert (sorted(stage.queue.done), list(stage.queue.faults)) == ([2], [1])
    assert stage.calls_of() == {1: 3, 2: 5}


def test_a_call_that_fails_as_a_whole_costs_only_the_one_to_blame(stage: Stage) -> None:
    stage.queue.add(job(1, 5), job(2, 5), job(3, 5))
    stage.model.before = raising(RenderFailed("bad"), lambda seeds: 2 in seeds and len(stage.model.ticks) >= 2)
    assert stage.run(batch_limit=3) == 2
    assert (sorted(stage.queue.done), list(stage.queue.faults)) == ([1, 3], [2])
    assert stage.calls_of() == {1: 5, 2: 2, 3: 5}


def test_a_suspect_is_alone_at_the_device(stage: Stage) -> None:
    stage.queue.add(job(1, 5), job(2, 30), job(3, 5, suspect=True), job(4, 5))
    slowly(stage)
    assert stage.run() >= 3
    alone = [at for at, seeds in enumerate(stage.model.ticks) if 3 in seeds]
    assert all(stage.model.ticks[at] == [3] for at in alone)
    # Nothing else was begun and not finished meanwhile.
    others = [at for at, seeds in enumerate(stage.model.ticks) if seeds != [3]]
    begun = {seed for at in others for seed in stage.model.ticks[at] if at < alone[0]}
    after = {seed for at in others for seed in stage.model.ticks[at] if at > alone[0]}
    assert not begun & after
    assert 3 in stage.queue.done


def test_what_was_claimed_ahead_goes_back_when_the_process_is_to_stop(stage: Stage) -> None:
    stage.queue.add(*(job(number, 40) for number in range(1, 41)))

    def before(_: list[int]) -> None:
        stage.takes(0.01)
        stage.stopping = len(stage.model.ticks) > 20

    stage.model.before = before
    assert stage.run() == 2
    assert sorted(stage.queue.done) == [1, 2]
    assert stage.queue.given_back
    assert stage.tickets == [NORMAL]
    held = {1, 2, *stage.queue.given_back, *(one.id for one in stage.queue.jobs)}
    assert held == set(range(1, 41))


def test_nobody_joins_a_model_whose_files_were_replaced(stage: Stage) -> None:
    stage.queue.add(*(job(number, 40) for number in range(1, 41)))

    def before(_: list[int]) -> None:
        stage.takes(0.01)
        stage.is_as_loaded = len(stage.model.ticks) < 2

    stage.model.before = before
    assert stage.run() == 2
    assert sorted(stage.queue.done) == [1, 2]
    assert {*stage.queue.given_back, *(one.id for one in stage.queue.jobs)} == set(range(3, 41))


def test_nobody_joins_once_another_model_is_due(stage: Stage) -> None:
    stage.queue.add(*(job(number, 30) for number in range(1, 41)))
    stage.queue.others = {"other": INTERACTIVE}

    def before(_: list[int]) -> None:
        stage.takes(0.02)
        stage.stays = False

    stage.model.before = before
    assert stage.run() == 2
    assert {one.id for one in stage.queue.jobs} == set(range(3, 41))
    # Nor is anything claimed any more, to go back again.
    assert len(stage.queue.given_back) == len(set(stage.queue.given_back))


def test_an_urgent_picture_of_another_model_is_made_between_two_calls(stage: Stage) -> None:
    stage.queue.add(*(job(number, 30) for number in range(1, 41)))
    stage.queue.others = {"other": INTERACTIVE}
    stage.stays = False
    made_at: list[int] = []

    def between_calls(waiting: Mapping[str, Priority]) -> bool:
        if waiting.get("other") is not INTERACTIVE:
            stage.stays = True
            return False
        del stage.queue.others["other"]
        made_at.append(len(stage.model.ticks))
        return True

    stage.between_calls = between_calls
    slowly(stage)
    stage.run()
    (at,) = made_at
    # Those in hand had begun, and went on where they were; nothing was given back.
    assert 0 < at < 600
    assert stage.calls_of() == dict.fromkeys(range(1, 41), 30)
    assert stage.queue.given_back == []


def test_what_is_urgent_elsewhere_is_not_made_between_calls_of_what_is_as_urgent(stage: Stage) -> None:
    stage.queue.add(job(1, 30, INTERACTIVE), job(2, 30, BULK))
    stage.queue.others = {"other": INTERACTIVE}
    asked_at: list[int] = []

    def between_calls(_: Mapping[str, Priority]) -> bool:
        asked_at.append(len(stage.model.ticks))
        return False

    stage.between_calls = between_calls
    slowly(stage)
    stage.run()
    assert asked_at
    assert min(asked_at) >= 30


def test_few_that_wait_are_left_to_others(stage: Stage) -> None:
    stage.queue.add(*(job(number, 20) for number in range(1, 8)))

    def before(_: list[int]) -> None:
        stage.takes(0.02)
        # Four batches of two would be enough to claim ahead: no more than is about to take a slot.
        assert len(stage.queue.claimed) <= 1 + (len(stage.model.ticks) + 1) // 20

    stage.model.before = before
    assert stage.run() == 7
    assert stage.queue.claimed == [2] * 3 + [1]


def test_many_that_wait_are_claimed_ahead(stage: Stage) -> None:
    stage.queue.add(*(job(number, 20) for number in range(1, 31)))
    slowly(stage)
    stage.run()
    assert len(stage.queue.claimed) > 5
    assert max(map(len, stage.model.ticks)) == 2
    assert stage.queue.done.keys() >= {*range(1, 20)}


def test_a_broken_device_is_to_blame_for_what_had_begun(stage: Stage) -> None:
    stage.queue.add(*(job(number, 40) for number in range(1, 31)))

    def before(_: list[int]) -> None:
        stage.takes(0.02)
        if len(stage.model.ticks) == 10:
            raise DeviceBroken("assert")

    stage.model.before = before
    with pytest.raises(DeviceBroken):
        stage.run()
    assert sorted(stage.queue.faults) == [1, 2]
    left = {*stage.queue.faults, *stage.queue.given_back, *(one.id for one in stage.queue.jobs)}
    assert left == set(range(1, 31))


def test_pictures_of_another_size_have_calls_of_their_own_and_none_waits_for_ever(stage: Stage) -> None:
    stage.queue.add(*(job(number, 10, width=8 if number % 2 else 16) for number in range(1, 13)))
    slowly(stage)
    while stage.queue.jobs:
        stage.run()
    assert len(stage.queue.done) == 12
    assert all(len({seed % 2 for seed in seeds}) == 1 for seeds in stage.model.ticks)


def test_a_picture_that_is_made_again_is_called_alone_by_the_same_calls(stage: Stage) -> None:
    said = json.dumps({"calls": [[16, 1, 2, 3], [4, None, 0, 2]], "decoded": [4, 1]})
    stage.queue.add(job(1, 5, INTERACTIVE, replay=said), job(2, 5), job(3, 5))
    stage.run(batch_limit=3)
    assert all(seeds == [1] for seeds in stage.model.ticks if 1 in seeds)
    [replay] = stage.model.replayed
    assert (replay.calls, replay.decoded) == (((16, 1, 2, 3), (4, None, 0, 2)), (4, 1))


def test_what_was_one_pipeline_call_is_made_again_by_one(stage: Stage) -> None:
    stage.queue.add(job(1, 5, together=True), job(2, 5, together=True))
    assert stage.run() == 2
    assert (stage.model.together, stage.model.ticks) == ([[1, 2]], [])


_JOBS = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(list(Priority)), st.sampled_from([8, 16]), st.booleans()),
    min_size=1,
    max_size=20,
)


@settings(max_examples=examples(60), deadline=None)
@given(jobs=_JOBS, limit=st.integers(1, 5), bad=st.sets(st.integers(1, 20)), cancelled=st.sets(st.integers(1, 20)))
def test_every_job_ends_once_whatever_happens(
    jobs: list[tuple[int, Priority, int, bool]], limit: int, bad: set[int], cancelled: set[int]
) -> None:
    stage = Stage()
    numbered = [
        job(number, steps, priority, width=width, suspect=suspect)
        for number, (steps, priority, width, suspect) in enumerate(jobs, 1)
    ]
    stage.queue.add(*numbered[: len(jobs) // 2 + 1])
    late = numbered[len(jobs) // 2 + 1 :]

    def before(seeds: list[int]) -> None:
        if late:
            stage.queue.add(late.pop())
        stage.queue.lost = {one for one in cancelled if len(stage.model.ticks) > one}
        stage.look_at_leases()
        if len(seeds) > 3:
            raise OutOfMemory("full")
        if bad.intersection(seeds):
            raise RenderFailed("bad")

    stage.model.before = before
    while stage.queue.jobs:
        stage.run(batch_limit=limit)
    if late:
        return
    done, failed = set(stage.queue.done), set(stage.queue.faults)
    assert not done & failed
    assert failed <= bad
    assert {one.id for one in numbered} - done - failed <= cancelled
    calls, steps = stage.calls_of(), {one.id: one.spec.num_inference_steps for one in numbered}
    assert all(calls[number] == steps[number] for number in done)
    assert stage.queue.given_back == []


def test_others_ride_beside_an_urgent_picture_only_as_far_as_they_do_not_slow_it_down(stage: Stage) -> None:
    slow = CallPace()
    for pictures, seconds in ((1, 0.10), (2, 0.11), (3, 0.12), (4, 0.30)):
        slow.took("k", pictures, seconds)
    assert [slow.beside("k", 1, others) for others in range(4)] == [0, 1, 1, 1]
    assert slow.beside("k", 2, 2) == 1
    # What is not known is not tried with somebody waiting.
    assert (slow.beside("k", 5, 3), slow.beside("other", 1, 3)) == (0, 0)

    stage.pace = SettledPace({1: 1.0, 2: 2.0})
    stage.queue.add(job(1, 40, BULK), job(2, 40, BULK))

    def before(_: list[int]) -> None:
        stage.takes(0.01)
        if len(stage.model.ticks) == 5:
            stage.queue.add(job(3, 10, INTERACTIVE))

    stage.model.before = before
    stage.run()
    assert stage.model.ticks.count([3]) == 10
    assert stage.calls_of() == {1: 40, 2: 40, 3: 10}
