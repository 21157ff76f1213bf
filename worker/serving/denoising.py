"""A denoising loop: jobs of one model join, leave and step aside at every call of the model."""

import json
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed, ServiceProblem
from storage.jobs.values import Claim, ClaimedJob, RenderedBatch
from storage.rules.ids import batch_id
from storage.rules.states import Priority
from storage.spec.models import DiffusersModel, Model
from worker.rendering.backend import LoadedModel, Replay, SlotLoop, SlotPicture
from worker.serving.batch import FARM_VERSION, Batch, WorkerContext
from worker.serving.batch_limits import CallLimit
from worker.serving.claims_ahead import ClaimsAhead, QueueLook, SlotRoom
from worker.serving.lora_calls import CallWay
from worker.serving.previews import Shown
from worker.serving.slot_jobs import SlotJob, SlotJobs
from worker.serving.tick_sizes import TickSizes
from worker.serving.tick_threads import TickThreads

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a loop asks and tells its turn."""

    #: More jobs came, and with them what still waits.
    claimed: Callable[[Claim], None]
    #: Jobs of this priority went back to the queue.
    given_back: Callable[[Priority], None]
    #: Whether to stay with this model, by what waits for each model; the priority is that of the least urgent in hand.
    stays: Callable[[Mapping[str, Priority], Priority], bool]
    #: Render, between two calls, what somebody waits for of other models, by what waits; return whether it did.
    between_calls: Callable[[Mapping[str, Priority]], bool]
    #: Pictures were made in so many seconds of the device.
    rendered: Callable[[int, float], None]
    is_stopping: Callable[[], bool]
    #: Whether what is loaded is of the files that lie there: if not, what is claimed from now on is not for it.
    is_as_loaded: Callable[[], bool] = lambda: True


class Denoising:
    """Runs until nothing is in hand and nothing waits, or others are due: then nobody joins any more."""

    def __init__(
        self,
        model: Model,
        loaded: LoadedModel,
        loop: SlotLoop,
        *,
        context: WorkerContext,
        ahead: ClaimsAhead,
        hooks: Hooks,
    ) -> None:
        self._model = model
        self._loaded = loaded
        self._loop = loop
        self._context = context
        self._ahead = ahead
        self._hooks = hooks
        self._jobs = SlotJobs()
        self._threads = TickThreads(context.threads, model)
        self._sizes = TickSizes(context.batch_limits, model)
        self._made = 0
        #: Nobody joins any more.
        self._closed = False
        #: How many wait in the queue, as far as they were counted.
        self._backlog = 0
        #: The last claim found nothing.
        self._dry = False

    def run(self, claim: Claim, *, joinable: bool = True) -> int:
        """Render what was claimed and what joins it; return how many pictures were made. Nothing is left in hand.

        Args:
            joinable: whether anybody may join.

        Raises DeviceBroken; the jobs that were at the device were reported.
        """
        try:
            self._take(claim)
            self._closed = not joinable
            while self._serve():
                pass
        except DeviceBroken as error:
            # Whose call it was; also those that were just being admitted, and have no slot yet.
            blamed = self._context.leases.at_the_device([one.job for one in self._jobs])
            ids = {job.id for job in blamed}
            self._return([one.job for one in self._jobs if one.job.id not in ids])
            self._jobs.remove([*self._jobs])
            self._context.report_fault(blamed, error.fault, str(error))
            raise
        except BaseException:
            # Whatever this is, nobody works on these jobs now: their leases must expire.
            self._context.leases.drop([one.job for one in self._jobs])
            raise
        finally:
            self._close()
            self._context.heartbeat.denoised(self._context.counter.idle())
            self._context.previews.rest()
        return self._made

    def _serve(self) -> bool:
        """Make one call of the model, if there is anything to call it for. Return False once there is not."""
        if not self._closed and self._hooks.is_stopping():
            self._close()
        self._note(self._ahead.answer(wait=not self._jobs))
        self._drop_lost()
        lead = self._jobs.lead()
        if lead is None:
            return self._ahead.is_asking
        lead = self._jobs.fullest(lead, self._context.batch_limits.limit(self._model, lead.job).pictures)
        limit = self._sizes.choose(lead, self._jobs, waiting=self._backlog)
        called = self._jobs.next_call(lead, limit.pictures, self._context.pace, at_most=self._sizes.goes_on(limit))
        self._ask(limit, called)
        self._call(called, limit)
        return True

    # -- the queue ---------------------------------------------------------------------------------------------

    def _ask(self, limit: CallLimit, called: Sequence[SlotJob]) -> None:
        """Ask the queue for jobs where there is room for them, and whether anything more urgent waits.

        Args:
            called: those of the next call. Who takes the slots of those that leave after it is asked for beside it.
        """
        if self._closed or self._ahead.is_asking or self._jobs.has_suspect():
            return
        held = len(self._jobs) - sum(one.is_at_its_last_call for one in called)
        limits = self._context.batch_limits
        slots = limits.may_hold(self._model, limit, held=held, waiting=self._backlog)
        count_to = limits.count_to(self._model, limit)
        deep = self._backlog >= limits.deep(self._model, slots)
        seconds = self._context.pace.expected(called[0].key, len(called)) or 0.0
        may_look = self._dry or held >= slots or self._ahead.is_time_for_a_thorough_look
        if may_look and self._ahead.is_time_to_look(seconds):
            # Looking costs less than a claim that finds nothing.
            room = SlotRoom(free=slots - held, less_urgent=self._jobs.less_urgent(limit.pictures))
            self._ahead.look(self._model, room, count_to=count_to, call_seconds=seconds)
        elif not self._dry and (more := self._jobs.more_to_claim(slots, held, deep=deep)):
            self._ahead.claim(self._model, more, count_to=count_to)

    def _note(self, found: QueueLook | None) -> None:
        if found is None:
            return
        self._backlog = self._backlog if found.backlog is None else found.backlog
        if found.asked:
            self._dry = found.claim is None
        if found.claim is not None:
            self._hooks.claimed(found.claim)
            if self._hooks.is_as_loaded():
                self._take(found.claim)
            else:
                self._return(found.claim.jobs)
                self._close()
        if found.waiting is not None and len(self._jobs) and not self._closed:
            least_urgent = max(one.job.priority for one in self._jobs)
            if not self._serve_others(found.waiting) and not self._hooks.stays(found.waiting, least_urgent):
                self._close()

    def _serve_others(self, waiting: Mapping[str, Priority]) -> bool:
        """Have what is urgent of other models made between two calls; return whether there was any."""
        if self._jobs.has_suspect() or any(one.job.priority is Priority.INTERACTIVE for one in self._jobs):
            # Somebody waits for these, too.
            return False
        # None of these is at the device meanwhile.
        self._context.leases.add_ahead([one.job for one in self._jobs])
        return self._hooks.between_calls(waiting)

    def _take(self, claim: Claim) -> None:
        if claim.jobs[0].together and not self._closed:
            self._render_together(claim)
            return
        self._context.leases.add_ahead(claim.jobs)
        self._jobs.add(claim.jobs)

    def _render_together(self, claim: Claim) -> None:
        """Make again by one pipeline call what was made by one, between two calls of the others."""
        context, started = self._context, time.monotonic()
        context.leases.add_ahead([one.job for one in self._jobs])
        context.leases.add(claim.jobs)
        try:
            made = Batch(claim=claim, model=self._model, context=context).run(self._loaded)
        except DeviceBroken as error:
            context.report_fault(context.leases.at_the_device(claim.jobs), error.fault, str(error))
            raise
        except BaseException:
            context.leases.drop(claim.jobs)
            raise
        self._made += made
        context.heartbeat.rendered(made)
        self._hooks.rendered(made, time.monotonic() - started)

    def _close(self) -> None:
        """Let nobody join any more, and give back what has not begun."""
        self._closed = True
        # It may bring what was claimed just before.
        self._note(self._ahead.answer(wait=True))
        self._give_back()

    def _give_back(self) -> None:
        if waiting := self._jobs.not_begun():
            self._jobs.remove(waiting)
            self._return([one.job for one in waiting])

    def _return(self, jobs: Sequence[ClaimedJob]) -> None:
        """Give jobs back to the queue; they count no attempt."""
        if not jobs:
            return
        try:
            self._context.jobs.give_back(jobs)
            self._hooks.given_back(min(job.priority for job in jobs))
        except ServiceProblem as error:
            # Only once the process is to stop: its supervisor gives back what it held.
            log.warning("jobs not given back", extra={"jobs": len(jobs), "error": error})
        self._context.leases.drop(jobs)

    def _drop_lost(self) -> None:
        if lost := [one for one in self._jobs if self._context.leases.all_lost([one.job])]:
            log.info("jobs abandoned: cancelled or taken over", extra={"jobs": len(lost)})
            self._jobs.remove(lost)
            self._context.leases.drop([one.job for one in lost])

    # -- the device --------------------------------------------------------------------------------------------

    def _call(self, called: Sequence[SlotJob], limit: CallLimit) -> None:
        """Make one call of the model for these jobs, and hand over those that are finished by it."""
        context, started = self._context, time.monotonic()
        if limit.frugal:
            # Another worker found this necessary, or this one before it loaded the model again.
            self._loaded.save_memory()
        # Those that stand aside have no part in what the device may hang with.
        context.leases.add_ahead([one.job for one in self._jobs if one not in called])
        context.leases.add([one.job for one in called])
        replayed, admitting = called[0].job.replay is not None, any(one.slot is None for one in called)
        try:
            if not (called := self._admit(called)):
                return
            measures = not replayed and self._sizes.measures(called[0])
            way = context.lora_calls.choose(self._model, called, may_try=not measures)
            context.watchdog.begin(self._kind(called, way))
            failed = self._tick(called, way, measures=measures)
            context.watchdog.end()
        except OutOfMemory as error:
            if not context.batch_limits.give_way(self._model, [one.job for one in called], limit, self._loaded):
                self._fail(called, error)
            return
        except RenderFailed as error:
            self._tell_apart(called, error)
            return
        finally:
            # What comes now (recording a fault, waiting to publish) is not the device's doing.
            context.watchdog.rest()
        seconds = time.monotonic() - started
        # A call that is made again has rows and threads of its own.
        if not replayed and way.tried is None:
            self._threads.took(seconds)
            if not admitting:
                context.pace.took(called[0].key, len(called), seconds)
        for one in called:
            one.seconds += seconds / len(called)
        for position, why in failed.items():
            self._fail([called[position]], why)
        self._show(called, limit, way)
        left = [one for position, one in enumerate(called) if position not in failed]
        self._preview(left, seconds)
        self._develop([one for one in left if one.slot is not None and one.slot.made >= one.slot.calls], limit)

    def _preview(self, called: Sequence[SlotJob], seconds: float) -> None:
        """Look at what somebody watches of these, which a call of so many seconds has moved."""
        slots = [one.slot for one in called if one.slot is not None]
        shown = [Shown(job=one.job, step=slot.made, steps=slot.calls) for one, slot in zip(called, slots, strict=True)]
        self._context.previews.called(shown, seconds, lambda at: self._loop.preview([slots[place] for place in at]))

    def _kind(self, called: Sequence[SlotJob], way: CallWay) -> Hashable:
        """Return what calls are of whose length the watchdog learns; None: it may take as long as any."""
        if way.tried is not None:
            return None
        if isinstance(self._model, DiffusersModel) and self._model.compile != "none":
            # Each shape is compiled when it first comes, and rows tell shapes: one or two each, longer prompts apart.
            return None
        spec = called[0].job.spec
        return (self._model.alias, spec.width, spec.height, len(called), "slots", way.apart)

    def _tick(self, called: Sequence[SlotJob], way: CallWay, *, measures: bool) -> Mapping[int, RenderFailed]:
        slots = [one.slot for one in called if one.slot is not None]
        replayed = called[0].job.replay is not None
        threads = None if replayed else self._threads.choose([one.job for one in called])
        if not measures and way.tried is None:
            return self._loop.tick(slots, threads=threads, apart=way.apart)
        self._loop.finish()
        started = time.monotonic()
        failed = self._loop.tick(slots, threads=threads, apart=way.apart)
        self._loop.finish()
        seconds = time.monotonic() - started
        if measures:
            self._sizes.took(called, rows=self._loop.last_rows[0], seconds=seconds)
        self._context.lora_calls.took(way, seconds)
        return failed

    def _admit(self, called: Sequence[SlotJob]) -> list[SlotJob]:
        """Give slots to those that have none; return those that have one. What cannot be made at all fails."""
        now = time.monotonic()
        # Prompts are encoded, LoRAs loaded: no measure of a call, and a call is none of this.
        self._context.watchdog.begin(None)
        for one in called:
            if one.slot is None:
                self._context.heartbeat.now(state="rendering", batch=len(called))
                one.began_at = now
                try:
                    one.slot = self._loop.admit(one.job.spec, replay=Replay.read(one.job.replay))
                except RenderFailed as error:
                    self._fail([one], error)
        return [one for one in called if one.slot is not None]

    def _tell_apart(self, called: Sequence[SlotJob], error: RenderFailed) -> None:
        """After a call that failed as a whole, make those of its jobs alone, so that the bad one fails alone."""
        if len(called) == 1:
            self._fail(called, error)
            return
        log.warning("call failed, its jobs go on one by one", extra={"jobs": len(called), "error": error})
        for one in called:
            one.alone = True

    def _fail(self, failed: Sequence[SlotJob], error: RenderFailed | OutOfMemory) -> None:
        self._jobs.remove(failed)
        self._context.report_fault([one.job for one in failed], error.fault, str(error))

    def _develop(self, finished: Sequence[SlotJob], limit: CallLimit) -> None:
        if not finished:
            return
        # Decoding makes no steps, and what half precision spoiled is made again: it takes as long as it may.
        self._context.watchdog.begin(None)
        started = time.monotonic()
        try:
            made = self._loop.develop([one.slot for one in finished if one.slot is not None])
            self._context.watchdog.end()
        except OutOfMemory as error:
            if len(finished) > 1:
                for one in finished:
                    self._develop([one], limit)
            elif not limit.frugal and self._context.batch_limits.give_way(
                self._model, [finished[0].job], limit, self._loaded
            ):
                self._develop(finished, replace(limit, pictures=1, frugal=True))
            else:
                self._fail(finished, error)
            return
        finally:
            self._context.watchdog.rest()
        share = (time.monotonic() - started) / len(finished)
        done: list[tuple[SlotJob, SlotPicture]] = []
        for one, picture in zip(finished, made, strict=True):
            one.seconds += share
            if isinstance(picture, SlotPicture):
                done.append((one, picture))
            else:
                self._fail([one], picture)
        self._publish(done)

    def _publish(self, done: Sequence[tuple[SlotJob, SlotPicture]]) -> None:
        """Hand over pictures, together as far as one recipe and one beginning hold: they are completed at once."""
        self._jobs.remove([one for one, _ in done])
        groups: dict[tuple[str, float], list[tuple[SlotJob, SlotPicture]]] = {}
        for one, picture in done:
            key = (json.dumps(picture.common_recipe(), sort_keys=True), one.began_at)
            groups.setdefault(key, []).append((one, picture))
        for (_, began_at), group in groups.items():
            jobs = [one.job for one, _ in group]
            seconds = sum(one.seconds for one, _ in group)
            batch = RenderedBatch(
                # Unique: a job is claimed with a fence once, and rendered to the end at most once per claim.
                id=batch_id(jobs[0].id, jobs[0].fence),
                worker=self._context.worker,
                model=self._model.alias,
                jobs=tuple(jobs),
                recipe={"farm": FARM_VERSION, **group[0][1].common_recipe()},
                render_seconds=seconds,
                elapsed_seconds=time.monotonic() - began_at,
                remarks={one.job.id: picture.remarks for one, picture in group if picture.remarks},
                own_recipes={one.job.id: own for one, picture in group if (own := picture.own_recipe())},
            )
            self._context.publisher.publish(batch, jobs, [picture.picture for _, picture in group])
            self._made += len(jobs)
            self._context.heartbeat.rendered(len(jobs))
            self._context.heartbeat.rendered_by(group[0][1].recipe.get("threads"))
            self._hooks.rendered(len(jobs), seconds)

    def _show(self, called: Sequence[SlotJob], limit: CallLimit, way: CallWay) -> None:
        """Tell the heartbeat how far each job is, and what the slots do."""
        counts = self._context.counter.count(called, self._jobs, self._loop, max(limit.pictures, len(called)), way)
        heartbeat, held = self._context.heartbeat, [one for one in self._jobs if one.job.watched]
        heartbeat.limited(limit.pictures, limit.reason)
        heartbeat.now(state="rendering", model=self._model.alias, batch=len(called))
        heartbeat.denoised(counts)
        heartbeat.step((one.job, one.slot.made, one.slot.calls) for one in held if one.slot is not None)
