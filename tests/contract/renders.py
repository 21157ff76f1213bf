"""Renders to play with: submitting, claiming and completing them, and what must always be true of them."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

from sqlalchemy import select, update

from storage.database.connection import Database, database_now
from storage.database.tables import batches, jobs, renders
from storage.jobs.jobs import Jobs
from storage.jobs.values import Claim, ClaimedJob, NewJob, Published, RenderedBatch, Submission
from storage.objects.object_keys import picture_key
from storage.rules.faults import Fault
from storage.rules.states import FINAL, Priority, State
from storage.spec.picture import Spec

T = TypeVar("T")

KITTEN = Spec(
    model="tiny",
    prompt="a kitten",
    negative_prompt="",
    width=64,
    height=64,
    num_inference_steps=8,
    guidance_scale=5.0,
    sampler="ddim",
    seed=0,
)


def pictures(n: int = 1, **fields: Any) -> list[Spec]:
    """Specifications that differ in their seeds only."""
    return [Spec.model_validate(KITTEN.model_dump() | {"seed": seed} | fields) for seed in range(n)]


def submit(
    farm: Jobs,
    specs: Iterable[Spec | NewJob],
    *,
    owner: str = "ann",
    priority: Priority = Priority.NORMAL,
    quantum: int = 8,
    together: bool = False,
    watched: bool = False,
    held: bool = False,
) -> str:
    submission = Submission(owner=owner, priority=priority, together=together, watched=watched, held=held)
    return farm.submit(specs, submission, quanta={"tiny": quantum, "other": quantum})


def claim(farm: Jobs, *, limit: int = 8, worker: str = "w1", model: str = "tiny") -> Claim:
    """A claim that finds something."""
    found = farm.claim(model=model, worker=worker, limit=limit)
    assert found is not None, "nothing was waiting"
    return found


def rendered(found: Claim, *, worker: str = "w1") -> RenderedBatch:
    return RenderedBatch(
        id=found.batch_id,
        worker=worker,
        model=found.jobs[0].spec.model,
        jobs=found.jobs,
        recipe={"torch": "2.13", "dtype": "float32"},
        render_seconds=1.5,
    )


def published(*held: ClaimedJob) -> list[Published]:
    return [
        Published(
            job=job,
            object=picture_key(job.render_id, job.index),
            sha256=f"{job.id:064x}",
            bytes=1000 + job.index,
            pixels_sha256=f"{job.index:064x}",
            remarks=("prompt: ignored from character 376 on",) if job.index == 1 else (),
        )
        for job in held
    ]


def complete(farm: Jobs, found: Claim) -> dict[int, State | None]:
    """Complete a whole claim; what was refused."""
    return farm.complete(rendered(found), published(*found.jobs))


def fail(farm: Jobs, job: ClaimedJob, message: str, *, fault: Fault = Fault.BAD_SPECIFICATION) -> State | None:
    """Report a fault of one job; its state then, None if it was not ours any more."""
    return farm.recover([job], fault, message).get(job.id)


def died(farm: Jobs, *, worker: str) -> int:
    """A worker's process died; how many jobs it held."""
    return farm.recover_from_worker(worker=worker, fault=Fault.WORKER_DIED, message="the process died while rendering")


def drain(farm: Jobs, *, limit: int = 8, model: str = "tiny") -> list[ClaimedJob]:
    """Claim until nothing waits; the jobs in the order in which they were claimed."""
    claimed: list[ClaimedJob] = []
    while found := farm.claim(model=model, worker="w1", limit=limit):
        claimed.extend(found.jobs)
    return claimed


def lapse_leases(database: Database) -> None:
    """As if every worker had been silent for longer than its leases."""
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.state == State.RUNNING).values(lease_until=database_now() - 1))


def rows(database: Database, render_id: str) -> list[Any]:
    """A render's job rows in the order of their indexes."""
    with database.read() as connection:
        return [*connection.execute(select(jobs).where(jobs.c.render_id == render_id).order_by(jobs.c.index))]


def states(database: Database, render_id: str) -> list[State]:
    return [State(row.state) for row in rows(database, render_id)]


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make these calls at the same moment, each in a thread; their results."""
    barrier = Barrier(len(calls), timeout=60)

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [*threads.map(run, calls)]


def assert_rows_agree(database: Database) -> None:
    """What is true of renders, jobs and batches after every transaction, whatever happened."""
    with database.read() as connection:
        all_jobs = [*connection.execute(select(jobs))]
        # One that is being deleted loses its rows first.
        all_renders = [*connection.execute(select(renders).where(~renders.c.purging))]
        hidden = set(connection.execute(select(renders.c.id).where(renders.c.purging)).scalars())
        recorded = set(connection.execute(select(batches.c.id)).scalars())
    counted = Counter((job.render_id, job.state) for job in all_jobs)
    held = {render.id: render.held for render in all_renders}
    for render in all_renders:
        of_render = {state: counted[render.id, state] for state in State}
        assert render.total == sum(of_render.values())
        assert {state: getattr(render, state) for state in FINAL} == {state: of_render[state] for state in FINAL}
        finished = all(of_render[state] == 0 for state in State if state not in FINAL)
        assert (render.finished_at is not None) == finished
        done = [job for job in all_jobs if job.render_id == render.id and job.state == State.DONE]
        assert render.stored_bytes == sum(job.bytes for job in done)
        if done:
            assert render.first_done_at <= min(job.finished_at for job in done) + 1
            assert render.last_done_at >= max(job.finished_at for job in done)
    for job in all_jobs:
        assert (job.lease_until is not None) == (job.state == State.RUNNING)
        assert (job.finished_at is not None) == (job.state in FINAL)
        if job.render_id in hidden:
            assert job.state in FINAL
        elif job.state in (State.QUEUED, State.HELD):
            assert held[job.render_id] == (job.state == State.HELD)
        assert job.fence >= job.attempt >= 0
        if job.state == State.DONE:
            assert job.object == picture_key(job.render_id, job._mapping["index"])
            assert job.sha256
            assert job.bytes > 0
            assert job.batch_id in recorded
