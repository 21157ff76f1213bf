"""What must be true of a farm when everything has come to rest, whatever was done to it: `INVARIANTS`."""

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from scheduler.results.thumbnails import Side
from storage.objects.object_keys import picture_key, thumbnail_key
from storage.rules.states import FINAL, State
from storage.spec.picture import read_spec
from tests.chaos.ledger import ROOM, Ledger
from worker.rendering.simulated import draw

Row = Any


@dataclass(frozen=True)
class Snapshot:
    """Everything that the invariants look at."""

    ledger: Ledger
    renders: Sequence[Row]
    jobs: Sequence[Row]
    batches: Sequence[Row]
    objects: Mapping[str, bytes]
    #: Tickets in Redis, and those that workers hold or took to their graves.
    tickets: Mapping[str, int]
    tickets_in_hand: int
    #: The most tickets of one model that were seen at once, and how many there may be.
    most_tickets: int
    tickets_allowed: int
    #: How many tickets workers may have taken to their graves: Redis gives them back after 15 minutes.
    buried_allowed: int
    #: Processes of the farm that nobody answers for, while it ran and after it was stopped.
    strays: Sequence[str]
    #: Workers that did not come back to work after the last fault.
    silent: Sequence[str]
    #: Processes that ended though nobody made them.
    unasked: Sequence[str]
    #: Messages to receivers, and the ids of those that the receiver answered with success.
    deliveries: Sequence[Row]
    taken: Collection[str]
    #: First seeds of orders whose receiver is to hear of their end.
    hooked: Collection[int]
    #: What was seen meanwhile and must not be.
    noted: Sequence[str]

    @cached_property
    def by_render(self) -> Mapping[str, Sequence[Row]]:
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for job in self.jobs:
            found[job.render_id].append(job)
        return found

    @cached_property
    def by_id(self) -> Mapping[int, Row]:
        return {job.id: job for job in self.jobs}

    def done(self) -> Iterator[Row]:
        return (job for job in self.jobs if job.state == State.DONE)


def name_of(job: Row) -> str:
    return f"{job.render_id}-{job._mapping['index']:06d}"


def accepted_jobs_are_there(snapshot: Snapshot) -> Iterator[str]:
    """Every accepted render exists with all of its jobs."""
    there = {render.id for render in snapshot.renders}
    for render_id, order in snapshot.ledger.accepted.items():
        rows = snapshot.by_render.get(render_id, ())
        if render_id not in there or len(rows) != order.jobs:
            yield f"render {render_id}: accepted with {order.jobs} jobs, has {len(rows)}"


def renders_are_whole_and_asked_for(snapshot: Snapshot) -> Iterator[str]:
    """Every render is one that was asked for, is there once, and whole, whether or not its submitter got an answer."""
    seen: dict[int, str] = {}
    for render in snapshot.renders:
        rows = sorted(snapshot.by_render.get(render.id, ()), key=lambda job: job._mapping["index"])
        order = snapshot.ledger.orders.get(rows[0].seed // ROOM * ROOM) if rows else None
        if order is None:
            yield f"render {render.id}: nobody asked for it, or it has no jobs"
            continue
        if order.first_seed in seen:
            yield f"render {render.id}: the same order as render {seen[order.first_seed]}"
        seen[order.first_seed] = render.id
        if [job._mapping["index"] for job in rows] != list(range(order.jobs)) or render.total != order.jobs:
            yield f"render {render.id}: {len(rows)} jobs and a total of {render.total}, asked for were {order.jobs}"


def every_job_is_final(snapshot: Snapshot) -> Iterator[str]:
    """Every job is in exactly one final state."""
    for job in snapshot.jobs:
        if job.state not in FINAL:
            yield f"job {name_of(job)}: still {job.state}, attempt {job.attempt}, error {job.error}"
        elif job.finished_at is None:
            yield f"job {name_of(job)}: {job.state} without a time"


def no_job_failed(snapshot: Snapshot) -> Iterator[str]:
    """No job failed: nothing that was asked for is impossible, and kills alone must not use up ten attempts."""
    for job in snapshot.jobs:
        if job.state == State.FAILED:
            yield f"job {name_of(job)}: failed in attempt {job.attempt}: {job.error}"


def counters_agree_with_rows(snapshot: Snapshot) -> Iterator[str]:
    """The counters of each render are those of its rows, and its end is noted exactly if all are final."""
    for render in snapshot.renders:
        rows = snapshot.by_render.get(render.id, ())
        counted = Counter(job.state for job in rows)
        told = {state: getattr(render, state) for state in FINAL}
        if told != {state: counted[state] for state in FINAL}:
            yield f"render {render.id}: counters {told}, rows {dict(counted)}"
        if (render.finished_at is not None) != all(job.state in FINAL for job in rows):
            yield f"render {render.id}: finished_at is {render.finished_at}, rows are {dict(counted)}"
        if render.stored_bytes != (stored := sum(job.bytes for job in rows if job.state == State.DONE)):
            yield f"render {render.id}: {render.stored_bytes} bytes are stored, by its rows {stored}"


def done_rows_have_their_object(snapshot: Snapshot) -> Iterator[str]:
    """Every done row has one object, at the key of its render and index, with the recorded hash and size."""
    for job in snapshot.done():
        key = picture_key(job.render_id, job._mapping["index"])
        data = snapshot.objects.get(key)
        if job.object != key or data is None:
            yield f"job {name_of(job)}: done, object {job.object} " + ("is missing" if data is None else "is elsewhere")
        elif (hashlib.sha256(data).hexdigest(), len(data)) != (job.sha256, job.bytes):
            yield f"job {name_of(job)}: the object's {len(data)} bytes are not those recorded ({job.bytes})"


def objects_have_their_done_row(snapshot: Snapshot) -> Iterator[str]:
    """There is no object, picture or thumbnail, without a done row; above all none of a cancelled job."""
    owned = {job.object for job in snapshot.done()}
    for job in snapshot.done():
        owned |= {thumbnail_key(job.render_id, job._mapping["index"], side) for side in Side}
    states = {picture_key(job.render_id, job._mapping["index"]): job for job in snapshot.jobs}
    for key in sorted(snapshot.objects.keys() - owned):
        job = states.get(key)
        yield f"object {key}: no done row" + (
            f", its job {job.id} is {job.state}, fence {job.fence}, last held by {job.worker}" if job else " nor job"
        )


def pictures_are_what_their_recipes_say(snapshot: Snapshot) -> Iterator[str]:
    """Each picture is the one its row's specification gives, pixel by pixel, and carries that specification."""
    for job in snapshot.done():
        data = snapshot.objects.get(job.object)
        if data is None:
            continue
        spec = read_spec(job.spec)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            told = json.loads(picture.info["diffusion-farm"])["spec"]
            if picture.convert("RGB").tobytes() != draw(spec).tobytes():
                yield f"job {name_of(job)}: these are not the pixels of its specification"
        if told != spec.fields():
            yield f"job {name_of(job)}: the picture carries the recipe of another"


def seeds_are_as_asked(snapshot: Snapshot) -> Iterator[str]:
    """Each job has the prompt, the model and the seed that were asked for, in its row and in its specification."""
    for job in snapshot.jobs:
        order = snapshot.ledger.orders.get(job.seed // ROOM * ROOM)
        spec = read_spec(job.spec)
        if order is None:
            continue  # `renders_are_whole_and_asked_for` tells
        asked = (order.first_seed + job._mapping["index"], order.prompt, order.model, order.owner)
        if (job.seed, spec.prompt, job.model, job.owner) != asked or (spec.seed, spec.model) != (job.seed, job.model):
            yield f"job {name_of(job)}: asked for {asked}, has {job.seed, job.model, job.owner}, {spec.canonical()}"


def cancel_is_final(snapshot: Snapshot) -> Iterator[str]:
    """Nothing of a render moves after its cancel was confirmed: no claim, no picture, no other state."""
    for render_id, then in snapshot.ledger.cancelled.items():
        for job_id, (state, fence) in then.items():
            job = snapshot.by_id.get(job_id)
            if job is None or (job.state, job.fence) != (state, fence):
                now = "gone" if job is None else f"{job.state} with fence {job.fence}"
                yield f"job {job_id} of {render_id}: {state} with fence {fence} after the cancel, now {now}"
    for job in snapshot.jobs:
        if job.state == State.CANCELLED and job.started_at is not None and job.started_at > job.finished_at:
            yield f"job {name_of(job)}: claimed {job.started_at - job.finished_at:.3f} s after its cancel"


def no_lease_is_left(snapshot: Snapshot) -> Iterator[str]:
    """Nobody holds anything."""
    for job in snapshot.jobs:
        if job.lease_until is not None:
            yield f"job {name_of(job)}: {job.state} with a lease of {job.worker}"


def fences_cover_attempts(snapshot: Snapshot) -> Iterator[str]:
    """Each claim raised the fence."""
    for job in snapshot.jobs:
        if not job.fence >= job.attempt >= 0:
            yield f"job {name_of(job)}: attempt {job.attempt} with fence {job.fence}"


def batches_tell_of_their_jobs(snapshot: Snapshot) -> Iterator[str]:
    """Each done job is in the batch that it names, so that it can be made again in the same company."""
    members = {batch.id: frozenset(json.loads(batch.jobs)) for batch in snapshot.batches}
    for job in snapshot.done():
        if job.id not in members.get(job.batch_id, ()):
            yield f"job {name_of(job)}: not in its batch {job.batch_id}"


def tickets_do_not_grow(snapshot: Snapshot) -> Iterator[str]:
    """No ticket waits once nothing is to be done, few are held, and there were never more than the window."""
    for model, n in snapshot.tickets.items():
        if n:
            yield f"model {model}: {n} tickets still wait"
    if snapshot.tickets_in_hand > snapshot.buried_allowed:
        yield f"{snapshot.tickets_in_hand} tickets are held, expected at most {snapshot.buried_allowed}"
    if snapshot.most_tickets > snapshot.tickets_allowed:
        yield f"{snapshot.most_tickets} tickets of one model at once, allowed were {snapshot.tickets_allowed}"


def receivers_hear_of_each_end_once(snapshot: Snapshot) -> Iterator[str]:
    """Each render that ended once has one message about it; and what counts as delivered was taken by the receiver."""
    messages = Counter(one.render_id for one in snapshot.deliveries if one.kind == "render.finished")
    for render_id, order in snapshot.ledger.accepted.items():
        ended_once = order.first_seed in snapshot.hooked and render_id not in snapshot.ledger.retried
        if ended_once and messages[render_id] != 1:
            yield f"render {render_id}: {messages[render_id]} messages about its end"
    for one in snapshot.deliveries:
        if one.state == "delivered" and one.id not in snapshot.taken:
            yield f"message {one.id} of {one.render_id}: delivered, but its receiver did not take it"


def nothing_was_seen_meanwhile(snapshot: Snapshot) -> Iterator[str]:
    """No visitor got what is another's or an internal error, no limit was exceeded, and the API lived."""
    yield from snapshot.noted


def renders_are_held_with_their_jobs(snapshot: Snapshot) -> Iterator[str]:
    """What waits of a held render is held, and nothing else is."""
    held = {render.id: render.held for render in snapshot.renders}
    for job in snapshot.jobs:
        if job.state in (State.QUEUED, State.HELD) and (job.state == State.HELD) != held.get(job.render_id):
            yield f"job {name_of(job)}: {job.state}, its render is " + (
                "held" if held.get(job.render_id) else "not held"
            )


def every_worker_came_back(snapshot: Snapshot) -> Iterator[str]:
    """Each worker renders again soon after the last fault, whatever it lived through."""
    yield from snapshot.silent


def no_process_is_left_or_lost(snapshot: Snapshot) -> Iterator[str]:
    """No process of the farm is left behind, and none ended for good by itself."""
    yield from (f"left behind: {stray}" for stray in snapshot.strays)
    yield from snapshot.unasked


#: Each yields what violates it.
INVARIANTS: tuple[Callable[[Snapshot], Iterator[str]], ...] = (
    accepted_jobs_are_there,
    renders_are_whole_and_asked_for,
    every_job_is_final,
    no_job_failed,
    counters_agree_with_rows,
    done_rows_have_their_object,
    objects_have_their_done_row,
    pictures_are_what_their_recipes_say,
    seeds_are_as_asked,
    cancel_is_final,
    no_lease_is_left,
    fences_cover_attempts,
    batches_tell_of_their_jobs,
    tickets_do_not_grow,
    renders_are_held_with_their_jobs,
    receivers_hear_of_each_end_once,
    nothing_was_seen_meanwhile,
    every_worker_came_back,
    no_process_is_left_or_lost,
)


def violations(snapshot: Snapshot) -> list[str]:
    return [f"{invariant.__name__}: {violation}" for invariant in INVARIANTS for violation in invariant(snapshot)]
