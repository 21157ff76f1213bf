"""The farm's serving, from claim to stored picture, with a queue and a store in this process's memory.

No database and no broker: what is left is what the farm does between and beside the pipeline's calls.
"""

import hashlib
import io
import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch

from benchmarks.gpu.architectures import prompt_of
from benchmarks.gpu.bench import Bench, spread
from benchmarks.gpu.farm_models import backend_of, entry, registry_of, specs_of
from benchmarks.gpu.speed import steps_of
from storage.broker.tickets import Tickets
from storage.errors import RenderFailed
from storage.fleet.fault_log import FaultLog
from storage.fleet.memory_limits import Load, MemoryLimit
from storage.fleet.workers import Workers
from storage.jobs.values import Claim, ClaimedJob, Published, RenderedBatch
from storage.objects.folder import LocalObjects
from storage.objects.object_keys import Stored
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from storage.spec.models import Model
from storage.spec.picture import Spec
from worker.rendering.backend import (
    Backend,
    LoadedModel,
    Look,
    RenderResult,
    Replay,
    Slot,
    SlotLoop,
    SlotPicture,
    SmallPictures,
)
from worker.serving.batch import WorkerContext
from worker.serving.batch_limits import BatchLimits
from worker.serving.claims_ahead import ClaimsAhead
from worker.serving.heartbeat import Heartbeat
from worker.serving.help_call import HelpCall
from worker.serving.leases import Leases
from worker.serving.model_cache import ModelCache
from worker.serving.outages import OutageRetry
from worker.serving.patient import PatientObjects
from worker.serving.publish import Publisher
from worker.serving.services import PictureStore, Quarantines
from worker.serving.thread_choice import ThreadChoice
from worker.serving.turn import Turn
from worker.serving.watchdog import Watchdog

_Result = TypeVar("_Result")

_ROUNDS = 7
#: Batches of the farm and of the bare loop in a round, and pictures of the task in one.
_BATCHES = 4
_TASKS = 4


class QueueInMemory:
    """Jobs that nobody else wants: `worker.serving.services.WorkerJobs` and `LeasedJobs`."""

    def __init__(self) -> None:
        self._waiting: deque[ClaimedJob] = deque()
        self._lock = threading.Lock()
        self._next_id = 1
        self.done = 0
        self.faults: list[str] = []

    def fill(self, specs: Sequence[Spec]) -> None:
        """Add a job for each specification."""
        for spec in specs:
            number, self._next_id = self._next_id, self._next_id + 1
            # As long as a render's id.
            job = ClaimedJob(id=number, render_id=f"{number:026d}", index=0, spec=spec, fence=1, attempt=1)
            self._waiting.append(job)

    def claim(self, *, model: str, worker: str, limit: int) -> Claim | None:  # noqa: ARG002 - there is one of each
        taken = tuple(self._waiting.popleft() for _ in range(min(limit, len(self._waiting))))
        left = Priority.NORMAL if self._waiting else None
        return Claim(jobs=taken, next_priority=left) if taken else None

    def complete(self, batch: RenderedBatch, published: Sequence[Published]) -> Mapping[int, State | None]:  # noqa: ARG002
        with self._lock:
            self.done += len(published)
        return {}

    def recover(self, claimed: Sequence[ClaimedJob], fault: Fault, message: str) -> Mapping[int, State]:
        self.faults.append(f"{fault}: {message}")
        return {job.id: State.FAILED for job in claimed}

    def best_waiting(self, models: Sequence[str]) -> Mapping[str, Priority]:
        return dict.fromkeys(models, Priority.NORMAL) if self._waiting else {}

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:  # noqa: ARG002 - there is one of each
        return min(len(self._waiting), at_most)

    def give_back(self, claimed: Sequence[ClaimedJob]) -> int:
        self._waiting.extendleft(reversed(claimed))
        return len(claimed)

    def renew(self, claimed: Iterable[ClaimedJob]) -> set[int]:
        return {job.id for job in claimed}

    def still_held(self, claimed: Iterable[ClaimedJob]) -> set[int]:
        return {job.id for job in claimed}


class StoreInMemory:
    """`worker.serving.services.PictureStore` as a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, *, wanted: Callable[[], bool]) -> Stored:  # noqa: ARG002 - none is cancelled
        kept = self._objects.setdefault(key, data)
        return Stored(key=key, sha256=hashlib.sha256(kept).hexdigest(), bytes=len(kept))

    def get(self, key: str) -> bytes:
        return self._objects[key]

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)


class LimitsInMemory:
    """`worker.serving.services.SharedMemoryLimits` of one worker."""

    def __init__(self) -> None:
        self.known: dict[Load, MemoryLimit] = {}

    def of(self, load: Load) -> MemoryLimit | None:
        return self.known.get(load)

    def learn(self, load: Load, limit: MemoryLimit) -> None:
        self.known[load] = limit


class _NoQuarantine:
    def quarantine_of(self, worker: str, model: str) -> None:  # noqa: ARG002 - nobody is in one
        return None


class _NoTickets:
    def publish(self, model: str, priority: Priority, n: int = 1) -> None:
        """Nobody else serves."""


@dataclass(frozen=True, kw_only=True)
class WatchedLoop:
    """Slots that note when they were at work: a `worker.rendering.backend.SlotLoop`."""

    loop: SlotLoop
    calls: list[tuple[float, float]]

    @property
    def last_rows(self) -> tuple[int, int]:
        return self.loop.last_rows

    def admit(self, spec: Spec, *, replay: Replay | None = None) -> Slot:
        return self._noted(lambda: self.loop.admit(spec, replay=replay))

    def tick(
        self, slots: Sequence[Slot], *, threads: int | None = None, apart: bool = False
    ) -> Mapping[int, RenderFailed]:
        return self._noted(lambda: self.loop.tick(slots, threads=threads, apart=apart))

    def finish(self) -> None:
        self.loop.finish()

    def preview(self, slots: Sequence[Slot]) -> SmallPictures:
        return self.loop.preview(slots)

    def develop(self, slots: Sequence[Slot]) -> Sequence[SlotPicture | RenderFailed]:
        return self._noted(lambda: self.loop.develop(slots))

    def _noted(self, call: Callable[[], _Result]) -> _Result:
        started = time.perf_counter()
        result = call()
        self.calls.append((started, time.perf_counter()))
        return result


@dataclass(kw_only=True)
class WatchedModel:
    """A loaded model that notes when it rendered: a `worker.rendering.backend.LoadedModel`."""

    loaded: LoadedModel
    calls: list[tuple[float, float]] = field(default_factory=list)

    def render(
        self,
        specs: Sequence[Spec],
        on_step: Callable[[], None],
        *,
        at_most: int | None = None,
        threads: int | None = None,
        looks: Callable[[Sequence[int], Look], None] | None = None,
    ) -> RenderResult:
        started = time.perf_counter()
        made = self.loaded.render(specs, on_step, at_most=at_most, threads=threads, looks=looks)
        self.calls.append((started, time.perf_counter()))
        return made

    def slots(self) -> SlotLoop | None:
        loop = self.loaded.slots()
        return None if loop is None else WatchedLoop(loop=loop, calls=self.calls)

    def save_memory(self) -> bool:
        return self.loaded.save_memory()

    def flow(self) -> tuple[float, float]:
        """Return the seconds from the first call's start to the last one's end, and which share lay between calls.

        It is what a longer queue takes in the middle; by slots, a device may be at work between calls, too. The calls
        are then forgotten.
        """
        calls = [*self.calls]
        self.calls.clear()
        between = sum(after[0] - before[1] for before, after in itertools.pairwise(calls))
        seconds = calls[-1][1] - calls[0][0]
        return seconds, between / seconds


@dataclass(frozen=True, kw_only=True)
class _OneModel:
    """A backend with its one model loaded."""

    model: WatchedModel

    def load(self, model: Model, *, shared: LoadedModel | None = None) -> LoadedModel:  # noqa: ARG002 - there is one
        return self.model


def turn_of(model: WatchedModel, queue: QueueInMemory, store: PictureStore, limits: LimitsInMemory) -> Turn:
    """Make the worker's turn with all of its own parts, around a queue and a store in memory."""
    watchdog = Watchdog(stall_seconds=600)
    leases = Leases(queue, renew_seconds=10, watchdog=watchdog, on_stall=lambda _: None)
    leases.start()
    # Not started: there is no row to write.
    heartbeat = Heartbeat(
        cast("Workers", None),
        cast("FaultLog", None),
        name="benchmark",
        seconds=10,
        announce=lambda: None,
        on_name_taken=lambda _: None,
    )
    return Turn(
        context=WorkerContext(
            worker="benchmark",
            jobs=queue,
            leases=leases,
            watchdog=watchdog,
            batch_limits=BatchLimits(limits, device_name="benchmark"),
            threads=ThreadChoice(None),
            publisher=Publisher(jobs=queue, objects=store, leases=leases),
            heartbeat=heartbeat,
        ),
        served=["benchmark"],
        turn_seconds=3600,
        load_seconds=600,
        tickets=cast("Tickets", _NoTickets()),
        quarantines=cast("Quarantines", _NoQuarantine()),
        models=ModelCache({"diffusers": cast("Backend", _OneModel(model=model))}),
        ahead=ClaimsAhead(queue, worker="benchmark", served=["benchmark"]),
        help=HelpCall(queue, None, start_seconds=0.0),
        stopping=threading.Event(),
    )


def serve(turn: Turn, queue: QueueInMemory, model: Model, specs: Sequence[Spec]) -> float:
    """Have the specifications rendered and stored; return the seconds. Raises RuntimeError if any was not."""
    before = queue.done
    started = time.perf_counter()
    queue.fill(specs)
    turn.run(model)
    seconds = time.perf_counter() - started
    if queue.faults or queue.done - before != len(specs):
        raise RuntimeError(f"{queue.done - before} of {len(specs)} pictures stored: {'; '.join(queue.faults)}"[:300])
    return seconds


def farm_batch(bench: Bench, name: str) -> int:
    """Return the batch limit of the farm's models here: the knee, but no more than is rendered several times a part."""
    return min(16, bench.knee(name))


def against(bench: Bench, name: str) -> None:
    """The farm's path in turns with a bare loop over the same batches, and with a task per image; one loaded model."""
    batch = farm_batch(bench, name)
    # Large pictures take long; a queue of one size is as good for two kinds of store as for one.
    batches = 2 if bench.arch(name).side > 512 or bench.tiny else _BATCHES
    registry = registry_of(entry(bench, name, alias=name, batch_limit=batch))
    model = registry[name]
    loaded = cast("Any", backend_of(bench).load(model))
    watched = WatchedModel(loaded=loaded)
    queue = QueueInMemory()
    stores: dict[str, PictureStore] = {"memory": StoreInMemory()}
    if batches == _BATCHES or bench.tiny:
        stores["a folder"] = PatientObjects(
            LocalObjects(bench.folder / f"stored-{name}"), OutageRetry(threading.Event())
        )
    turns = {where: turn_of(watched, queue, store, LimitsInMemory()) for where, store in stores.items()}
    # The device's kernels are chosen, and the farm's threads are started, before anything is timed.
    for turn in turns.values():
        serve(turn, queue, model, specs_of(registry, name, batch))
    bare_loop(bench, loaded.pipeline, batch, batches=1)
    watched.calls.clear()
    rounds, arms = 2 if bench.tiny else _ROUNDS, _Arms()
    for number in range(rounds):
        started = time.monotonic()
        arms.bare.append(batch * batches / bare_loop(bench, loaded.pipeline, batch, batches=batches))
        for where, turn in turns.items():
            specs = specs_of(registry, name, batch * batches, first=1000 * (number + 1))
            arms.farm[where].append(len(specs) / serve(turn, queue, model, specs))
            steady, idle = watched.flow()
            arms.steady[where].append(len(specs) / steady)
            arms.idle[where].append(idle)
        arms.task.append(_TASKS / _task(bench, loaded.pipeline, stores["memory"], round_number=number))
        if bench.left < 1.3 * (time.monotonic() - started):
            break
    arms.note(bench, name, batch)


@dataclass(kw_only=True)
class _Arms:
    """Pictures a second by round; of the farm also without its first and last moments, and the device's idle share."""

    bare: list[float] = field(default_factory=list)
    task: list[float] = field(default_factory=list)
    farm: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    steady: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    idle: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, bench: Bench, name: str, batch: int) -> None:
        for where, rates in self.farm.items():
            bench.note(
                model=name,
                how=f"store in {where}",
                batch=batch,
                steps=steps_of(bench),
                rounds=len(rates),
                farm_over_bare=_ratio(rates, self.bare)["median"],
                farm_over_bare_within_a_backlog=_ratio(self.steady[where], self.bare)["median"],
                farm_over_task=_ratio(rates, self.task)["median"],
                idle_share=spread(self.idle[where])["median"],
                farm_over_bare_rounds=_ratio(rates, self.bare),
                farm_over_task_rounds=_ratio(rates, self.task),
                images_per_second=spread(rates),
                bare_images_per_second=spread(self.bare),
                task_images_per_second=spread(self.task),
            )


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


@torch.inference_mode()
def bare_loop(bench: Bench, pipeline: Any, batch: int, *, batches: int) -> float:
    """Return the seconds of a loop that calls the pipeline and keeps nothing."""
    started = time.perf_counter()
    for number in range(batches):
        seeds = range(number * batch, (number + 1) * batch)
        pipeline(
            prompt=[prompt_of(seed) for seed in seeds],
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=steps_of(bench),
            guidance_scale=7.5,
        )
    return time.perf_counter() - started


@torch.inference_mode()
def _task(bench: Bench, pipeline: Any, store: PictureStore, *, round_number: int) -> float:
    """Return the seconds of what people write today: for each image a call, Pillow's default PNG, and an upload."""
    started = time.perf_counter()
    for seed in range(_TASKS):
        picture = pipeline(
            prompt_of(seed),
            generator=torch.Generator("cpu").manual_seed(seed),
            num_inference_steps=steps_of(bench),
            guidance_scale=7.5,
        ).images[0]
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        store.put(f"tasks/{round_number}-{seed}.png", buffer.getvalue(), wanted=lambda: True)
    return time.perf_counter() - started
