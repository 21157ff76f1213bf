"""Processes that take jobs from a queue at once, and how long each of them waited for its turn.

A process lives as long as its pool: it imports once. In each round every one prepares (connects), waits for the others,
and takes jobs until so many were taken or the time is over.
"""

import asyncio
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

from benchmarks.scenario import Figures

MODEL = "tiny"
_PATIENCE_SECONDS = 120
#: Nothing waits for whoever asks, although jobs are left.
_STARVED_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Load:
    """What all processes together do in a round."""

    url: str
    jobs: int
    seconds: float
    batch: int = 1
    #: In each process; it has a connection for each of them.
    threads: int = 1
    #: Batches of each claimant before it counts. A server makes the plans of a session at its first claims, which takes
    #: as long as tens of later ones, and farms' sessions live for days.
    beforehand: int = 0


@dataclass
class Taken:
    """What a process took, by the clock that all share."""

    started: float = 0.0
    ended: float = 0.0
    jobs: int = 0
    waits: list[float] = field(default_factory=list)


class Quota:
    """The jobs that are left to take, for all processes."""

    def __init__(self, value: Any, deadline: float) -> None:
        self._value, self._deadline = value, deadline

    def take(self, n: int) -> bool:
        with self._value.get_lock():
            self._value.value -= n
            left: int = self._value.value
        return left + n > 0 and time.monotonic() < self._deadline


#: Connects, calls what it is given, which waits for the others, and takes jobs as long as the quota allows.
Work = Callable[[Load, int, Callable[[], Quota]], Taken]


class Pool:
    """So many processes, started afresh."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._left = context.Value("q", 0)
        self._start = context.Barrier(processes)
        self._members: list[tuple[Any, Connection]] = []
        for number in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_member, args=(there, number, self._start, self._left), daemon=True)
            process.start()
            self._members.append((process, here))

    def run(self, work: Work, load: Load) -> Figures:
        """Let all do the work at once: jobs and claims a second of all, median and 99th percentile of the waits."""
        self._left.value = load.jobs
        for _, connection in self._members:
            connection.send((work, load))
        told = [_answer(process, connection) for process, connection in self._members]
        if errors := sorted((one for one in told if isinstance(one, str)), key=lambda one: "BrokenBarrier" in one):
            self._start.reset()  # those that waited for it have given up, and tell so, too
            raise RuntimeError(errors[0])
        taken: list[Taken] = told
        seconds = max(one.ended for one in taken) - min(one.started for one in taken)
        waits = sorted(wait for one in taken for wait in one.waits)
        if not waits:
            raise RuntimeError(f"nobody got a job in {load.seconds:.1f} s")
        return {
            "jobs_per_second": sum(one.jobs for one in taken) / seconds,
            "claims_per_second": len(waits) / seconds,
            "wait_ms": 1000 * statistics.median(waits),
            "wait_p99_ms": 1000 * waits[int(0.99 * len(waits))],
        }

    def close(self) -> None:
        for process, connection in self._members:
            connection.close()
            process.join(10)
            if process.is_alive():
                process.kill()


@contextmanager
def pool(processes: int) -> Iterator[Pool]:
    """Processes that are gone at the end."""
    started = Pool(processes)
    try:
        yield started
    finally:
        started.close()


def _answer(process: Any, connection: Connection) -> Any:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not connection.poll(1):
        if not process.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("a claiming process has ended" if not process.is_alive() else "no claims within minutes")
    return connection.recv()


def _member(connection: Connection, number: int, start: Barrier, left: Any) -> None:
    while True:
        try:
            work, load = connection.recv()
        except EOFError:
            return

        def ready(seconds: float = load.seconds) -> Quota:
            start.wait(_PATIENCE_SECONDS)
            return Quota(left, time.monotonic() + seconds)

        try:
            connection.send(work(load, number, ready))
        except Exception as error:  # noqa: BLE001 - told to the pool, which raises it
            start.abort()
            connection.send(f"{type(error).__name__}: {error}")


# -- the farm --------------------------------------------------------------------------------------------------


def claim_and_complete(load: Load, number: int, ready: Callable[[], Quota]) -> Taken:
    """Claim batches through `Jobs.claim`, and record every picture as done."""
    from storage.database.connection import Database

    database = Database(load.url, connections=load.threads)
    together = threading.Barrier(load.threads)
    try:
        with ThreadPoolExecutor(load.threads) as threads:
            list(threads.map(lambda _: _connect(database, together), range(load.threads)))
            names = [f"w{number}-{thread}" for thread in range(load.threads)]
            list(threads.map(partial(_warm_up, database, together=together, load=load), names))
            quota, started = ready(), time.monotonic()
            parts = list(threads.map(partial(_claim, database, quota=quota, batch=load.batch), names))
        return Taken(
            started=started,
            ended=max(part.ended for part in parts),
            jobs=sum(part.jobs for part in parts),
            waits=[wait for part in parts for wait in part.waits],
        )
    finally:
        database.close()


def _connect(database: Any, together: threading.Barrier) -> None:
    """Open a connection and hold it until all threads have one."""
    with database.read():
        together.wait(_PATIENCE_SECONDS)


def _warm_up(database: Any, worker: str, *, together: threading.Barrier, load: Load) -> None:
    """Claim with all the others at once, so that each has a connection of its own."""
    for _ in range(load.beforehand):
        together.wait(_PATIENCE_SECONDS)
        _claim_one(database, worker, load.batch)


def _claim(database: Any, worker: str, *, quota: Quota, batch: int) -> Taken:
    taken, fed = Taken(started=time.monotonic()), time.monotonic()
    while quota.take(batch):
        claimed = _claim_one(database, worker, batch)
        if claimed is None:
            if time.monotonic() - fed > _STARVED_SECONDS:
                raise AssertionError("no job for a claimant, although some wait")
            continue
        fed = time.monotonic()
        taken.waits.append(claimed.wait)
        taken.jobs += claimed.jobs
    taken.ended = time.monotonic()
    return taken


class _Claimed(NamedTuple):
    wait: float
    jobs: int


def _claim_one(database: Any, worker: str, batch: int) -> _Claimed | None:
    from storage.jobs.jobs import Jobs
    from storage.jobs.values import Published, RenderedBatch

    jobs, before = Jobs(database), time.perf_counter()
    claim = jobs.claim(model=MODEL, worker=worker, limit=batch)
    if claim is None:
        return None
    wait = time.perf_counter() - before
    rendered = RenderedBatch(
        id=claim.batch_id, worker=worker, model=MODEL, jobs=claim.jobs, recipe={}, render_seconds=0.1
    )
    pictures = [
        Published(job=job, object=f"renders/{job.render_id}/{job.index}.png", sha256="0" * 64, bytes=1)
        for job in claim.jobs
    ]
    if refused := jobs.complete(rendered, pictures):
        raise AssertionError(f"jobs were taken by two: {refused}")
    return _Claimed(wait, len(claim.jobs))


# -- procrastinate ---------------------------------------------------------------------------------------------


def fetch_and_finish(load: Load, number: int, ready: Callable[[], Quota]) -> Taken:
    """Fetch jobs one by one, as procrastinate's worker does, and mark them as succeeded."""
    return asyncio.run(_fetch(load, number, ready))


async def _fetch(load: Load, _number: int, ready: Callable[[], Quota]) -> Taken:
    from procrastinate import App, PsycopgConnector
    from procrastinate.jobs import Status

    app = App(connector=PsycopgConnector(conninfo=load.url, min_size=1, max_size=1))
    async with app.open_async():
        manager = app.job_manager
        worker = await manager.register_worker()

        async def one() -> float | None:
            before = time.perf_counter()
            job = await manager.fetch_job(queues=None, worker_id=worker)
            if job is None:
                return None
            wait = time.perf_counter() - before
            await manager.finish_job(job, status=Status.SUCCEEDED, delete_job=False)
            return wait

        for _ in range(load.beforehand):
            await one()
        quota, taken = ready(), Taken(started=time.monotonic())
        while quota.take(1) and (wait := await one()) is not None:
            taken.waits.append(wait)
            taken.jobs += 1
        taken.ended = time.monotonic()
    return taken
