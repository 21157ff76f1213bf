"""A denoising loop with a queue, a store and a model in memory, all of them scripted."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from PIL import Image

from storage.errors import FarmError, RenderFailed
from storage.fleet.fault_log import FaultLog
from storage.fleet.learned_limits import CallKind, LearnedLimit
from storage.fleet.memory_limits import Load, MemoryLimit
from storage.fleet.workers import Workers
from storage.jobs.values import Claim, ClaimedJob, Published, RenderedBatch
from storage.objects.object_keys import Stored
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from storage.spec.models import Model, SimulatedModel
from storage.spec.picture import Spec
from worker.rendering.backend import LoadedModel, RenderResult, Replay, Slot, SlotLoop, SlotPicture, SmallPictures
from worker.serving.batch import WorkerContext
from worker.serving.batch_learner import BatchLearner
from worker.serving.batch_limits import BatchLimits
from worker.serving.call_pace import CallPace
from worker.serving.claims_ahead import ClaimsAhead
from worker.serving.denoising import Denoising, Hooks
from worker.serving.heartbeat import Heartbeat
from worker.serving.leases import Leases
from worker.serving.lora_calls import LoraCalls
from worker.serving.previews import PreviewMaker
from worker.serving.publish import Publisher
from worker.serving.slot_counter import SlotCounter
from worker.serving.thread_choice import ThreadChoice
from worker.serving.watchdog import Watchdog

MODEL = SimulatedModel(kind="simulated", alias="m", batch_limit=2)


def job(number: int, steps: int, priority: Priority = Priority.NORMAL, **said: object) -> ClaimedJob:
    """A claimed job of so many steps; `width` is its specification's."""
    width = int(cast("int", said.pop("width", 8)))
    spec = Spec(
        model="m",
        prompt=f"p{number}",
        negative_prompt="",
        width=width,
        height=8,
        num_inference_steps=steps,
        guidance_scale=5.0,
        seed=number,
    )
    return ClaimedJob(
        id=number,
        render_id="r",
        index=number,
        spec=spec,
        fence=1,
        attempt=1,
        priority=priority,
        **said,  # type: ignore[arg-type]
    )


class Queue:
    """Jobs in the order of priority and number; a claim takes the head and those of its loop key.

    Those to be made together are claimed with one another only, and all at once. `claiming` is called with the head
    of each claim.
    """

    def __init__(self) -> None:
        self.jobs: list[ClaimedJob] = []
        self.claimed: list[int] = []
        self.done: dict[int, RenderedBatch] = {}
        self.faults: dict[int, str] = {}
        self.given_back: list[int] = []
        self.lost: set[int] = set()
        self.others: dict[str, Priority] = {}
        self.claiming: Callable[[ClaimedJob], None] = lambda _: None
        self._lock = threading.RLock()

    def add(self, *jobs: ClaimedJob) -> None:
        with self._lock:
            self.jobs = sorted([*self.jobs, *jobs], key=lambda one: (one.priority, one.id))

    def claim(self, *, model: str, worker: str, limit: int) -> Claim | None:
        del model, worker
        with self._lock:
            if not self.jobs:
                return None
            head = self.jobs[0]
            alike = [one for one in self.jobs if _key(one) == _key(head) and not one.suspect]
            taken = [head] if head.suspect else alike if head.together else alike[:limit]
            self.jobs = [one for one in self.jobs if one not in taken]
            self.claimed.append(len(taken))
            claim = Claim(jobs=tuple(taken), next_priority=self.jobs[0].priority if self.jobs else None)
        self.claiming(head)
        return claim

    def complete(self, batch: RenderedBatch, published: Sequence[Published]) -> Mapping[int, State | None]:
        with self._lock:
            self.done |= {picture.job.id: batch for picture in published}
        return {}

    def recover(self, claimed: Sequence[ClaimedJob], fault: Fault, message: str) -> Mapping[int, State]:
        self.faults |= {one.id: f"{fault}: {message}" for one in claimed}
        return {one.id: State.FAILED for one in claimed}

    def give_back(self, claimed: Sequence[ClaimedJob]) -> int:
        self.given_back += [one.id for one in claimed]
        self.add(*claimed)
        return len(claimed)

    def best_waiting(self, models: Sequence[str]) -> Mapping[str, Priority]:
        with self._lock:
            own = {"m": self.jobs[0].priority} if self.jobs else {}
        return own | {name: priority for name, priority in self.others.items() if name in models}

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:
        del model
        return min(at_most, sum(one.priority == priority for one in self.jobs))

    def renew(self, claimed: Iterable[ClaimedJob]) -> set[int]:
        return self.still_held(claimed)

    def still_held(self, claimed: Iterable[ClaimedJob]) -> set[int]:
        return {one.id for one in claimed} - self.lost


def _key(one: ClaimedJob) -> tuple[str, bool]:
    return one.spec.loop_key(), one.together


class Store:
    """Keeps what was put last under each key, whoever it is for."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, *, wanted: Callable[[], bool]) -> Stored | None:  # noqa: ARG002 - as asked
        self.kept[key] = data
        return Stored(key=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    def get(self, key: str) -> bytes:
        raise AssertionError(key)

    def delete(self, key: str) -> None:
        raise AssertionError(key)


class LearnedInMemory:
    """`worker.serving.services.SharedLearnedLimits` of one test."""

    def __init__(self) -> None:
        self.known: dict[CallKind, LearnedLimit] = {}

    def of(self, kind: CallKind) -> LearnedLimit | None:
        return self.known.get(kind)

    def learn(self, kind: CallKind, limit: LearnedLimit) -> None:
        self.known[kind] = limit


class MemoryInMemory:
    def __init__(self) -> None:
        self.known: dict[Load, MemoryLimit] = {}

    def of(self, load: Load) -> MemoryLimit | None:
        return self.known.get(load)

    def learn(self, load: Load, limit: MemoryLimit) -> None:
        self.known[load] = limit


@dataclass(eq=False)
class FakeSlot:
    """Counts the calls that were made for it."""

    spec: Spec
    replay: Replay | None
    made: int = 0

    @property
    def calls(self) -> int:
        return self.spec.num_inference_steps


class FakeModel:
    """A loaded model whose calls are recorded as the seeds of their pictures; `before` may raise."""

    def __init__(self) -> None:
        self.ticks: list[list[int]] = []
        self.apart: list[bool] = []
        self.replayed: list[Replay] = []
        self.together: list[list[int]] = []
        self.last_rows = (0, 0)
        self.before: Callable[[list[int]], None] = lambda _: None
        self.failing: Callable[[int, int], bool] = lambda _seed, _made: False
        self.frugal = False
        self.developing: Callable[[list[int]], None] = lambda _: None
        self.admitting: Callable[[int], None] = lambda _: None
        self.looking: Callable[[list[int]], None] = lambda _: None
        self.looked_at: list[list[int]] = []

    def slots(self) -> SlotLoop:
        return self

    def render(self, specs: Sequence[Spec], on_step: Callable[[], None], **_: object) -> RenderResult:
        self.before([spec.seed for spec in specs])
        on_step()
        self.together.append([spec.seed for spec in specs])
        return RenderResult(pictures=[Image.new("RGB", (8, 8)) for _ in specs], recipe={"kind": "fake"})

    def save_memory(self) -> bool:
        before, self.frugal = self.frugal, True
        return not before

    def admit(self, spec: Spec, *, replay: Replay | None = None) -> FakeSlot:
        self.admitting(spec.seed)
        if replay is not None:
            self.replayed.append(replay)
        return FakeSlot(spec, replay)

    def tick(
        self, slots: Sequence[Slot], *, threads: int | None = None, apart: bool = False
    ) -> Mapping[int, RenderFailed]:
        del threads
        self.apart.append(apart)
        seeds = [slot.spec.seed for slot in slots]
        self.before(seeds)
        self.ticks.append(seeds)
        failed = {}
        for position, slot in enumerate(slots):
            assert isinstance(slot, FakeSlot)
            assert slot.made < slot.calls, "called once too often"
            slot.made += 1
            if self.failing(slot.spec.seed, slot.made):
                failed[position] = RenderFailed("this one")
        self.last_rows = (len(slots), 4)
        return failed

    def finish(self) -> None:
        pass

    def preview(self, slots: Sequence[Slot]) -> SmallPictures:
        seeds = [slot.spec.seed for slot in slots]
        self.looking(seeds)
        self.looked_at.append(seeds)
        return SmallPictures(fetch=lambda: ([Image.new("RGB", (8, 8)) for _ in seeds], 0.0))

    def develop(self, slots: Sequence[Slot]) -> Sequence[SlotPicture | RenderFailed]:
        self.developing([slot.spec.seed for slot in slots])
        assert all(slot.made == slot.calls for slot in slots)
        return [
            SlotPicture(picture=Image.new("RGB", (8, 8)), recipe={"kind": "fake", "calls": [[1, None, 0, slot.made]]})
            for slot in slots
        ]


class SettledPace(CallPace):
    """Takes calls to need what is given, whatever they do on the machine that tests run on."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        super().__init__()
        for pictures, needed in seconds.items():
            super().took(job(1, 1).spec.loop_key(), pictures, needed)

    def took(self, key: str, pictures: int, seconds: float) -> None:
        pass


@dataclass
class Stage:
    """What a test changes and looks at."""

    queue: Queue = field(default_factory=Queue)
    model: FakeModel = field(default_factory=FakeModel)
    store: Store = field(default_factory=Store)
    limits: MemoryInMemory = field(default_factory=MemoryInMemory)
    learned: LearnedInMemory = field(default_factory=LearnedInMemory)
    #: How many serve the model.
    workers: int = 1
    counter: SlotCounter = field(default_factory=SlotCounter)
    pace: CallPace = field(default_factory=CallPace)
    previews: PreviewMaker = field(default_factory=PreviewMaker)
    lora_calls: LoraCalls = field(default_factory=LoraCalls)
    stopping: bool = False
    #: Set once the loop has seen that it is to stop.
    seen_to_stop: threading.Event = field(default_factory=threading.Event)
    stays: bool = True
    is_as_loaded: bool = True
    between_calls: Callable[[Mapping[str, Priority]], bool] = lambda _: False
    threads: ThreadChoice = field(default_factory=lambda: ThreadChoice(None))
    watchdog: Watchdog = field(default_factory=lambda: Watchdog(stall_seconds=60))
    tickets: list[Priority] = field(default_factory=list)
    #: What a test may have for a clock.
    now: float = 1000.0

    def takes(self, seconds: float) -> None:
        """Let a call take so long by that clock: what was asked beside it is answered, however busy this machine is."""
        self.now += seconds
        # That call is at its end.
        self.ahead._wanted.set()
        if self.ahead._asked is not None:
            wait([self.ahead._asked])

    @cached_property
    def batch_limits(self) -> BatchLimits:
        """Return what a process keeps from loop to loop."""
        learner = BatchLearner(self.learned, device_name="d")
        return BatchLimits(self.limits, device_name="d", learner=learner, workers=lambda _: self.workers)

    def context(self) -> WorkerContext:
        """Return what a worker's batches need."""
        # Not started: a test says itself when leases are looked at.
        self.leases = Leases(self.queue, renew_seconds=10, watchdog=self.watchdog, on_stall=lambda _: None)
        publisher = Publisher(jobs=self.queue, objects=self.store, leases=self.leases)
        self.heartbeat = Heartbeat(
            cast("Workers", None),
            cast("FaultLog", None),
            name="w",
            seconds=10,
            announce=lambda: None,
            on_name_taken=lambda _: None,
        )
        return WorkerContext(
            worker="w",
            jobs=self.queue,
            leases=self.leases,
            watchdog=self.watchdog,
            batch_limits=self.batch_limits,
            threads=self.threads,
            publisher=publisher,
            heartbeat=self.heartbeat,
            counter=self.counter,
            pace=self.pace,
            previews=self.previews,
            lora_calls=self.lora_calls,
        )

    def run(self, batch_limit: int | None = 2, model: Model = MODEL) -> int:
        """Claim once, run the loop to its end, and wait until all is stored. Raises what the loop raises."""
        context = self.context()
        model = model.model_copy(update={"batch_limit": batch_limit})
        claim = self.queue.claim(model="m", worker="w", limit=model.batch)
        assert claim is not None
        self.ahead = ClaimsAhead(self.queue, worker="w", served=["m", *self.queue.others])
        loop = Denoising(
            model,
            cast("LoadedModel", self.model),
            self.model,
            context=context,
            ahead=self.ahead,
            hooks=Hooks(
                claimed=lambda _: None,
                given_back=self.tickets.append,
                stays=lambda _waiting, _least: self.stays,
                between_calls=lambda waiting: self.between_calls(waiting),
                rendered=lambda _pictures, _seconds: None,
                is_stopping=self._is_stopping,
                is_as_loaded=lambda: self.is_as_loaded,
            ),
        )
        try:
            return loop.run(claim)
        finally:
            context.publisher.drain()

    def _is_stopping(self) -> bool:
        if self.stopping:
            self.seen_to_stop.set()
        return self.stopping

    def look_at_leases(self) -> None:
        """Do what the leases' thread does now and then."""
        self.leases._keep_once()

    def calls_of(self) -> Mapping[int, int]:
        """Return how many calls each picture had, by its job's id."""
        found: defaultdict[int, int] = defaultdict(int)
        for seeds in self.model.ticks:
            for seed in seeds:
                found[seed] += 1
        return found


def raising(error: FarmError, when: Callable[[list[int]], bool]) -> Callable[[list[int]], None]:
    """Return a function that raises an error for certain pictures."""

    def check(seeds: list[int]) -> None:
        if when(seeds):
            raise error

    return check
