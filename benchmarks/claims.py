"""Claims a second on PostgreSQL, by how many jobs wait and how many workers claim at once, with the query's plan.

python -m benchmarks.claims --jobs 1000 100000 1000000 --processes 8 --seconds 20 --out claims.json

A server of its own is started (from the wheel that the tests use); its commits do not wait for the disk. Each process
claims a batch of eight and gives it back at once, so that as many jobs wait at the end as at the beginning.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import click
from sqlalchemy import event, text

from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission
from storage.rules.states import Priority
from storage.spec.picture import Spec
from tests.servers import postgres_server

MODEL, BATCH = "tiny", 8
SPEC = Spec(
    model=MODEL,
    prompt="a red star",
    negative_prompt="",
    width=512,
    height=512,
    num_inference_steps=30,
    guidance_scale=7.5,
    sampler=None,
    seed=0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = [_measured(n, options.processes, options.seconds) for n in options.jobs]
    if options.out:
        machine = {"machine": platform.machine(), "cores": multiprocessing.cpu_count()}
        options.out.write_text(json.dumps({**machine, "results": results}, indent=1) + "\n")


def _measured(waiting: int, processes: int, seconds: float) -> dict[str, Any]:
    with _filled(waiting) as url:
        click.echo(f"\n{waiting} jobs wait, {processes} processes claim {BATCH} at a time for {seconds:.0f} s")
        plan = _plan(url)
        click.echo("\n".join(f"    {line}" for line in plan))
        took = _claim_at_once(url, processes, seconds)
    each = sorted(took)
    result = {
        "waiting": waiting,
        "processes": processes,
        "claims_per_second": round(len(each) / seconds, 1),
        "median_ms": round(1000 * statistics.median(each), 2),
        "p99_ms": round(1000 * each[int(len(each) * 0.99)], 2),
        "plan": plan,
    }
    click.echo(
        f"    {result['claims_per_second']} claims/s, median {result['median_ms']} ms, p99 {result['p99_ms']} ms"
    )
    return result


@contextmanager
def _filled(n: int) -> Iterator[str]:
    """The address of a database in which so many jobs of three owners wait."""
    with postgres_server() as server:
        name = server.create()
        url = server.url(name)
        database = Database(url)
        upgrade(database)
        jobs = Jobs(database)
        for owner in ("ann", "ben", "cid"):
            jobs.submit([SPEC], Submission(owner=owner, priority=Priority.NORMAL), quanta={MODEL: BATCH})
        copied = (
            "render_id, {index}, owner, model, priority, {index} / 8, batch_key, seed + {index}, spec, state"
        ).format(index="number")
        columns = 'render_id, "index", owner, model, priority, round, batch_key, seed, spec, state'
        with database.write() as connection:
            connection.execute(
                text(
                    f"INSERT INTO jobs ({columns}) SELECT {copied} FROM jobs, generate_series(1, :n) AS number "  # noqa: S608
                    'WHERE "index" = 0 ORDER BY number'
                ),
                {"n": n // 3},
            )
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE jobs"))
        database.close()
        yield url
        server.drop(name)


def _plan(url: str) -> list[str]:
    """How PostgreSQL carries out the two statements of a claim: the head of the queue, and the batch."""
    database = Database(url)
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    jobs = Jobs(database)
    jobs.claim(model=MODEL, worker="w", limit=BATCH)
    jobs.requeue_from_worker(worker="w")
    event.remove(database.engine, "before_cursor_execute", note)
    claiming = [found for found in seen if "FOR UPDATE" in found[0]]
    with database.engine.connect() as connection:
        lines = [
            row[0]
            for statement, parameters in claiming
            for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        ]
        connection.rollback()
    database.close()
    return lines


def _claim_at_once(url: str, processes: int, seconds: float) -> list[float]:
    """How long each claim took, of all processes."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    with context.Manager() as manager:
        took = manager.list()
        workers = [
            context.Process(target=_claim, args=(url, f"w{index}", seconds, start, took)) for index in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return [each for part in took for each in part]


def _claim(url: str, name: str, seconds: float, start: Barrier, took: Any) -> None:
    database = Database(url)
    jobs = Jobs(database)
    jobs.claim(model="none", worker=name, limit=1)  # connects
    start.wait()
    mine: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.perf_counter()
        found = jobs.claim(model=MODEL, worker=name, limit=BATCH)
        mine.append(time.perf_counter() - before)
        if found is None or len(found.jobs) != BATCH:
            raise AssertionError("too few jobs were waiting")
        jobs.requeue_from_worker(worker=name)
    took.append(mine)
    database.close()


if __name__ == "__main__":
    main()
