"""One batch on its way through the device, from claim to publishing or fault."""

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from storage.errors import OutOfMemory, RenderFailed
from storage.jobs.values import Claim, ClaimedJob, RenderedBatch
from storage.rules.faults import Fault
from storage.rules.ids import batch_id
from storage.spec.models import Model
from storage.spec.samplers import model_calls
from worker.rendering.backend import Abandoned, LoadedModel, RenderResult
from worker.serving.batch_limits import BatchLimits, CallLimit
from worker.serving.call_pace import CallPace
from worker.serving.heartbeat import Heartbeat
from worker.serving.leases import Leases
from worker.serving.lora_calls import LoraCalls
from worker.serving.previews import BatchLooks, PreviewMaker
from worker.serving.publish import Publisher
from worker.serving.services import WorkerJobs
from worker.serving.slot_counter import SlotCounter
from worker.serving.thread_choice import ThreadChoice
from worker.serving.watchdog import Watchdog

log = logging.getLogger(__name__)

FARM_VERSION = version("diffusion-farm")


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What every batch of a worker needs; made once per device process."""

    worker: str
    jobs: WorkerJobs
    leases: Leases
    watchdog: Watchdog
    batch_limits: BatchLimits
    threads: ThreadChoice
    publisher: Publisher
    heartbeat: Heartbeat
    counter: SlotCounter = field(default_factory=SlotCounter)
    pace: CallPace = field(default_factory=CallPace)
    previews: PreviewMaker = field(default_factory=PreviewMaker)
    lora_calls: LoraCalls = field(default_factory=LoraCalls)

    def report_fault(self, jobs: Sequence[ClaimedJob], fault: Fault, message: str) -> None:
        """Record a fault; its class decides what becomes of the jobs (`storage.rules.faults`)."""
        if not jobs:
            return
        after = self.jobs.recover(jobs, fault, message)
        for job in jobs:
            state = after.get(job.id, "no longer ours")
            log.warning(
                "job met a fault",
                extra={
                    "job": job.name,
                    "attempt": job.attempt,
                    "fault": fault,
                    "state": str(state),
                    "error": message,
                },
            )
        self.leases.drop(jobs)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The jobs of one claim."""

    claim: Claim
    model: Model
    context: WorkerContext

    def run(self, loaded: LoadedModel) -> int:
        """Render, hand over to the publisher, and return how many pictures were rendered.

        What does not fit in the device's memory is rendered in parts. The jobs of a part that fails are rendered again
        one by one, so that a bad picture fails alone.

        Raises DeviceBroken; the jobs that are left are still in hand.
        """
        made = 0
        # What waits for slots together may differ in what one pipeline call has for all.
        parts = deque(tuple(group) for group in _by_call(self.claim.jobs))
        while parts:
            jobs = parts.popleft()
            limit = self.context.batch_limits.for_batch(self.model, jobs)
            if len(jobs) > limit.pictures:
                parts.extendleft((jobs[limit.pictures :], jobs[: limit.pictures]))
                continue
            try:
                made += self._attempt(loaded, jobs, limit)
            except OutOfMemory as error:
                if self.context.batch_limits.give_way(self.model, jobs, limit, loaded):
                    parts.appendleft(jobs)
                else:
                    self.context.report_fault(jobs, error.fault, str(error))
            except RenderFailed as error:
                if len(jobs) == 1:
                    self.context.report_fault(jobs, error.fault, str(error))
                    continue
                log.warning(
                    "batch failed, rendering its jobs one by one",
                    extra={"batch": self.claim.batch_id, "jobs": len(jobs), "error": error},
                )
                parts.extendleft((job,) for job in reversed(jobs))
        return made

    def _attempt(self, loaded: LoadedModel, jobs: Sequence[ClaimedJob], limit: CallLimit) -> int:
        context, threads, started = self.context, self.context.threads.choose(self.model, jobs), time.monotonic()
        if limit.frugal:
            # Another worker found this necessary, or this one before it loaded the model again.
            loaded.save_memory()
        if not jobs[0].together:
            context.heartbeat.limited(limit.pictures, limit.reason)
        steps, of = itertools.count(1), model_calls(jobs[0].spec, self.model)
        context.watchdog.begin((self.model.alias, jobs[0].spec.width, jobs[0].spec.height, len(jobs)))
        try:
            rendered = loaded.render(
                [job.spec for job in jobs],
                lambda: self._after_step(jobs, next(steps), of),
                at_most=limit.pictures,
                threads=threads,
                looks=BatchLooks(context.previews, jobs, steps=of),
            )
            context.watchdog.end()
        except Abandoned:
            log.info("batch abandoned, its jobs were cancelled or taken over", extra={"batch": self.claim.batch_id})
            context.leases.drop(jobs)
            return 0
        finally:
            # What comes now (recording a fault, waiting to publish) is not the device's doing.
            context.watchdog.rest()
            context.previews.rest()
        seconds = time.monotonic() - started
        context.threads.rendered(self.model, jobs, threads=threads, seconds=seconds)
        if not jobs[0].together and not jobs[0].suspect:
            key, share = jobs[0].spec.batch_key(), seconds / len(jobs)
            context.batch_limits.took(self.model, jobs[0], key, pictures=len(jobs), share=share, seconds=seconds)
        context.heartbeat.rendered_by(rendered.recipe.get("threads"))
        context.publisher.publish(self._report(jobs, rendered, seconds), jobs, rendered.pictures)
        return len(jobs)

    def _after_step(self, jobs: Sequence[ClaimedJob], step: int, of: int) -> None:
        self.context.watchdog.step()
        self.context.heartbeat.step((job, step, of) for job in jobs)
        if self.context.leases.all_lost(jobs):
            raise Abandoned

    def _report(self, jobs: Sequence[ClaimedJob], rendered: RenderResult, seconds: float) -> RenderedBatch:
        return RenderedBatch(
            # Unique: a job is claimed with a fence once, and rendered to the end at most once per claim.
            id=batch_id(jobs[0].id, jobs[0].fence),
            worker=self.context.worker,
            model=self.model.alias,
            jobs=tuple(jobs),
            recipe={"farm": FARM_VERSION, **rendered.recipe},
            render_seconds=seconds,
            remarks={job.id: said for job, said in zip(jobs, rendered.remarks, strict=False) if said},
        )


def _by_call(jobs: Sequence[ClaimedJob]) -> Iterable[Sequence[ClaimedJob]]:
    """Divide jobs into those that one pipeline call can make, in their order."""
    of_key: dict[str, list[ClaimedJob]] = {}
    for job in jobs:
        of_key.setdefault(job.spec.batch_key(), []).append(job)
    return of_key.values()
