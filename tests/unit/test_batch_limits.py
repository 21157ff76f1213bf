"""How many jobs are claimed and called together where models go batch by batch."""

import threading
from dataclasses import dataclass, field
from typing import Any, cast

from storage.fleet.learned_limits import CallKind, LearnedLimit, LimitReason
from storage.fleet.memory_limits import Load, MemoryLimit
from storage.rules.states import Priority
from storage.spec.entry_hash import entry_hash
from storage.spec.models import DiffusersModel, Model, SimulatedModel
from tests.unit.slot_stage import LearnedInMemory, Stage, job
from worker.serving.batch_learner import BatchLearner
from worker.serving.batch_limits import BatchLimits
from worker.serving.claims_ahead import ClaimsAhead
from worker.serving.help_call import HelpCall
from worker.serving.turn import Turn

LEARNING = SimulatedModel(kind="simulated", alias="m")
KIND = CallKind(model="m", entry=entry_hash(LEARNING), width=8, height=8, device_name="d")
DAY = 86400.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class NoMemoryLimits:
    def __init__(self, *known: MemoryLimit) -> None:
        self.known = known

    def of(self, load: Load) -> MemoryLimit | None:
        del load
        return self.known[0] if self.known else None

    def learn(self, load: Load, limit: MemoryLimit) -> None:
        raise AssertionError((load, limit))


@dataclass
class Device:
    """A worker whose batches of B pictures take 1 + 0.1·B seconds."""

    model: Model = LEARNING
    waiting: int = 10_000
    workers: int = 1
    clock: Clock = field(default_factory=Clock)
    learned: LearnedInMemory = field(default_factory=LearnedInMemory)
    memory: NoMemoryLimits = field(default_factory=NoMemoryLimits)

    def __post_init__(self) -> None:
        learner = BatchLearner(self.learned, device_name="d", clock=self.clock)
        self.limits = BatchLimits(self.memory, device_name="d", learner=learner, workers=lambda _: self.workers)

    def renders(self, batches: int, **said: Any) -> list[int]:
        """Return how many pictures each had."""
        sizes = []
        for _ in range(batches):
            n = self.limits.to_claim(self.model, lambda at_most: min(at_most, self.waiting))
            jobs = [job(number, 20, **said) for number in range(n)]
            assert self.limits.for_batch(self.model, jobs).pictures >= n
            seconds = 1 + 0.1 * n
            self.clock.now += seconds
            key = jobs[0].spec.batch_key()
            self.limits.took(self.model, jobs[0], key, pictures=n, share=seconds / n, seconds=seconds)
            sizes.append(n)
        return sizes


def test_batches_grow_while_pictures_get_faster_and_the_knee_is_told_to_others() -> None:
    device = Device()
    # The first of each number prepares kernels; 0.225 s a picture, 0.1625, 0.13125, 0.1156.
    assert device.renders(16) == [8] * 3 + [16] * 3 + [32] * 3 + [64] * 3 + [64] * 4
    assert device.learned.known == {KIND: LearnedLimit(pictures=64, settled=True)}


def test_the_next_worker_starts_with_what_was_learned_and_looks_again_after_a_day() -> None:
    first = Device()
    first.learned.known[KIND] = LearnedLimit(pictures=32, settled=True, age=3600)
    # The size of the first batch's pictures is not known before it is claimed.
    assert first.renders(6) == [8, 32, 32, 32, 32, 32]
    first.clock.now += DAY
    first.learned.known.clear()
    assert first.renders(8) == [32] * 3 + [64] * 5

    # Somebody was on the way.
    second = Device()
    second.learned.known[KIND] = LearnedLimit(pictures=16, settled=False, age=DAY / 2)
    assert second.renders(8) == [8, 16, 16, 16, 32, 32, 32, 64]


def test_what_another_worker_settles_meanwhile_ends_the_search() -> None:
    device = Device()
    assert device.renders(4) == [8, 8, 8, 16]
    device.learned.known[KIND] = LearnedLimit(pictures=32, settled=True)
    device.clock.now += 31
    assert device.renders(4)[1:] == [32, 32, 32]


def test_with_little_waiting_nothing_is_tried_and_no_more_than_ones_share_is_taken() -> None:
    device = Device(waiting=31)
    assert set(device.renders(20)) == {8}
    # Eight workers would each have to find one of sixteen.
    assert set(Device(waiting=127, workers=8).renders(20)) == {8}

    device = Device(workers=4)
    device.learned.known[KIND] = LearnedLimit(pictures=32, settled=True)
    found = []
    for device.waiting in (1000, 1000, 128, 100, 40, 5):
        found += device.renders(1)
    assert found == [8, 32, 32, 25, 10, 8]


def test_nothing_is_tried_with_those_that_somebody_waits_for() -> None:
    assert set(Device().renders(20, priority=Priority.INTERACTIVE)) == {8}


def test_no_batch_is_tried_that_others_would_wait_for_long() -> None:
    device = Device()
    device.clock.now = 0.0
    jobs = [job(number, 20) for number in range(8)]
    for _ in range(4):
        device.limits.limit(device.model, jobs[0])
        device.limits.took(device.model, jobs[0], jobs[0].spec.batch_key(), pictures=8, share=1.0, seconds=8.0)
    # Sixteen might take 16 s; four are tried.
    assert device.limits.to_claim(device.model, lambda at_most: at_most) == 4


def test_memory_that_ran_out_is_the_last_word() -> None:
    device = Device(memory=NoMemoryLimits(MemoryLimit(pictures=16)))
    assert max(device.renders(20)) == 16
    limit = Device(memory=NoMemoryLimits(MemoryLimit(pictures=4))).limits.limit(LEARNING, job(1, 20))
    assert (limit.pictures, limit.reason) == (4, LimitReason.MEMORY)


def test_why_a_limit_is_what_it_is() -> None:
    def reason(model: Model, device: Device) -> tuple[int, str]:
        limit = device.limits.limit(model, job(1, 20))
        return limit.pictures, str(limit.reason)

    device = Device()
    assert reason(LEARNING, device) == (8, "default")
    assert reason(LEARNING.model_copy(update={"batch_limit": 8}), device) == (8, "registry")
    compiled = DiffusersModel(kind="diffusers", alias="m", source="x", compile="default")
    assert reason(compiled, device) == (8, "compiled")
    device.renders(12)
    assert reason(LEARNING, device) == (64, "learned")
    assert set(Device(model=compiled).renders(12)) == {8}
    assert set(Device(model=LEARNING.model_copy(update={"batch_limit": 5})).renders(12)) == {5}


def test_what_is_made_again_together_is_not_divided() -> None:
    jobs = [job(number, 20, together=True) for number in range(32)]
    for limit in (None, 4):
        model = LEARNING.model_copy(update={"batch_limit": limit})
        assert Device().limits.for_batch(model, jobs).pictures >= 32


def test_jobs_of_another_size_than_expected_go_back_beyond_their_own_limit() -> None:
    stage = Stage()
    stage.learned.known[KIND] = LearnedLimit(pictures=16, settled=True)
    cast("Any", stage.model).slots = lambda: None
    stage.queue.add(
        *(job(number, 5) for number in range(1, 25)), *(job(number, 5, width=16) for number in range(25, 51))
    )
    tickets: list[Priority] = []

    class Models:
        aliases = ("m",)

        def get(self, model: Model) -> object:
            del model
            return stage.model

    class Tickets:
        def publish(self, model: str, priority: Priority) -> None:
            del model
            tickets.append(priority)

    turn = Turn(
        context=stage.context(),
        served=["m"],
        turn_seconds=30,
        load_seconds=30,
        tickets=cast("Any", Tickets()),
        quarantines=cast("Any", _NoQuarantines()),
        models=cast("Any", Models()),
        help=HelpCall(stage.queue, None, start_seconds=1),
        ahead=ClaimsAhead(stage.queue, worker="w", served=["m"]),
        stopping=threading.Event(),
    )
    turn.run(LEARNING)
    # Eight, as nothing is known of the queue's head; sixteen; sixteen of the other size, of which eight are made.
    assert stage.queue.claimed[:3] == [8, 16, 16]
    assert [len(seeds) for seeds in stage.model.together][:3] == [8, 16, 8]
    assert stage.queue.given_back[:8] == list(range(33, 41))
    assert sorted(stage.queue.done) == list(range(1, 51))
    assert Priority.NORMAL in tickets


class _NoQuarantines:
    def quarantine_of(self, worker: str, model: str) -> None:
        del worker, model
