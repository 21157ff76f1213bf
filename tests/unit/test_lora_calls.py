"""Whether pictures with different LoRAs share a call: what is tried when, and what comes of it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from storage.rules.states import Priority
from storage.spec.models import DiffusersModel, Model
from tests.unit.slot_stage import MODEL, Stage, job
from worker.serving.lora_calls import CallWay, LoraCalls
from worker.serving.slot_jobs import SlotJob

COMPILED = DiffusersModel(kind="diffusers", alias="m", source="a/b", compile="default")


def called(*loras: dict[str, float] | None, priority: Priority = Priority.NORMAL) -> list[SlotJob]:
    """Jobs of one call, with these LoRAs."""
    found = []
    for number, one in enumerate(loras):
        made = job(number, 20, priority)
        spec = made.spec.model_copy(update={"loras": one})
        found.append(SlotJob(job=replace(made, spec=spec), number=number))
    return found


MIXED = called({"a": 1.0}, {"b": 1.0}, None, {"a": 0.5})


class Device:
    """Calls take as long as it says, together and apart."""

    def __init__(self, together: float, apart: float) -> None:
        self.seconds = {False: together, True: apart}
        self.now = 0.0
        self.calls = LoraCalls(lambda: self.now)
        self.model: Model = MODEL

    def makes(self, n: int, jobs: Sequence[SlotJob] = MIXED, *, may_try: bool = True) -> list[bool]:
        """Return whether each call was apart."""
        return [self._call(jobs, may_try=may_try).apart for _ in range(n)]

    def _call(self, jobs: Sequence[SlotJob], *, may_try: bool) -> CallWay:
        way = self.calls.choose(self.model, jobs, may_try=may_try)
        self.now += self.seconds[way.apart]
        if way.tried is not None:
            self.calls.took(way, self.seconds[way.apart])
        return way


TRIAL = [False, True] * 4


def test_both_ways_are_tried_in_turns_and_what_is_clearly_faster_is_kept() -> None:
    device = Device(together=1.0, apart=0.8)
    assert device.makes(18) == [False] * 4 + TRIAL + [True] * 6
    device = Device(together=1.0, apart=0.95)
    assert device.makes(18) == [False] * 4 + TRIAL + [False] * 6


def test_the_first_call_of_each_way_decides_nothing() -> None:
    device = Device(together=1.0, apart=9.0)
    device.makes(6)
    device.seconds[True] = 0.5
    assert device.makes(8)[-1] is True


def test_it_is_tried_again_after_a_quarter_of_an_hour() -> None:
    device = Device(together=1.0, apart=0.5)
    assert device.makes(20)[-1] is True
    device.seconds[False] = 0.1
    device.now += 900
    assert device.makes(9) == [*TRIAL, False]


def test_nothing_is_tried_beside_what_else_is_measured_for_whoever_waits_or_where_nothing_differs() -> None:
    device = Device(together=1.0, apart=0.1)
    assert device.makes(20, may_try=False) == [False] * 20
    assert device.makes(20, called({"a": 1.0}, None, priority=Priority.INTERACTIVE)) == [False] * 20
    assert device.makes(20, called({"a": 1.0}, {"a": 1.0})) == [False] * 20
    assert device.makes(20, called(None, None)) == [False] * 20
    # They get what is known to be good.
    assert device.makes(20)[-1] is True
    assert device.makes(2, may_try=False) == [True] * 2


def test_each_kind_of_calls_is_tried_by_itself() -> None:
    device = Device(together=1.0, apart=0.1)
    assert device.makes(13)[-1] is True
    # As many pictures of as many sets, rounded up to powers of two.
    assert device.makes(1, called({"a": 1.0}, {"c": 1.0}, {"d": 1.0})) == [True]
    assert device.makes(1, called({"a": 1.0}, {"b": 1.0})) == [False]


@pytest.mark.parametrize("model", [COMPILED])
def test_what_is_compiled_has_one_call_for_all(model: Model) -> None:
    device = Device(together=1.0, apart=0.1)
    device.model = model
    assert device.makes(20) == [False] * 20


def test_calls_that_take_too_long_end_a_trial() -> None:
    device = Device(together=31.0, apart=40.0)
    assert device.makes(12) == [False] * 12


def test_a_call_of_a_trial_that_failed_is_made_again() -> None:
    device = Device(together=1.0, apart=0.1)
    device.makes(5)
    # Nobody says how long this one took.
    assert device.calls.choose(MODEL, MIXED).apart
    assert device.makes(8) == [*TRIAL[1:], True]


def test_trials_have_a_share_of_the_time_alone() -> None:
    device = Device(together=0.001, apart=0.002)
    tried = sum(
        any(device.makes(20, called(*({f"l{number % sets}": 1.0} for number in range(pictures)))))
        for pictures in (2, 4, 8, 16, 32, 64)
        for sets in (2, 4, 8)
        if sets <= pictures
    )
    assert tried == 12


class _FasterApart(LoraCalls):
    """Takes calls to need what it says, whatever they do on the machine that tests run on."""

    def took(self, way: CallWay, seconds: float) -> None:
        del seconds
        super().took(way, 0.5 if way.apart else 1.0)


def test_a_loop_calls_sets_apart_where_that_is_faster_and_says_so() -> None:
    stage = Stage(lora_calls=_FasterApart())
    for one, loras in zip((job(1, 20), job(2, 20)), ({"a": 1.0}, {"b": 1.0}), strict=True):
        spec = one.spec.model_copy(update={"loras": loras})
        stage.queue.add(replace(one, spec=spec))
    assert stage.run(batch_limit=2) == 2
    assert stage.model.apart == [False] * 4 + TRIAL + [True] * 8
    counts = stage.counter.idle()
    assert counts is not None
    assert (counts.mixed_ticks, counts.apart_ticks, counts.lora_calls) == (20, 12, "apart")
