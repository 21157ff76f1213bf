"""How far the pictures are that workers denoise now, of those that somebody follows."""

import json
from dataclasses import dataclass

from sqlalchemy import select

from storage.database.connection import Database
from storage.database.tables import jobs, workers
from storage.rules.states import State


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Of a worker's pictures together."""

    pictures: int
    done: int
    of: int


def steps_of_workers(database: Database) -> dict[str, Steps]:
    """Return, by worker, the steps of the pictures on its device; without workers whose pictures nobody follows.

    What a worker told of pictures that it has no more is left out.
    """
    with database.read() as connection:
        rows = connection.execute(select(workers.c.name, workers.c.jobs).where(workers.c.jobs != "[]")).all()
        told = {(row.name, job): (done, of) for row in rows for job, done, of in json.loads(row.jobs)}
        running = select(jobs.c.id, jobs.c.worker).where(
            jobs.c.id.in_({job for _, job in told}), jobs.c.state == State.RUNNING
        )
        held = {(row.worker, row.id) for row in connection.execute(running)} if told else set()
    found: dict[str, list[tuple[int, int]]] = {}
    for (worker, job), steps in told.items():
        if (worker, job) in held:
            found.setdefault(worker, []).append(steps)
    return {
        worker: Steps(pictures=len(some), done=sum(done for done, _ in some), of=sum(of for _, of in some))
        for worker, some in found.items()
    }
