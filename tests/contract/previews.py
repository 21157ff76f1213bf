"""What tests of previews share: a farm whose worker is the test, and small pictures of what it has in hand."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from storage.broker.previews import Preview, Previews
from storage.broker.tickets import Tickets
from storage.jobs.values import Claim
from storage.settings import Settings
from tests.contract.stage import Stage, running_stage


@contextmanager
def watched_stage(folder: Path, redis_url: str) -> Iterator[Stage]:
    """A farm with a broker, whose worker is the test: nothing is made unless it does it."""
    with running_stage(folder, tickets=Tickets(Settings(broker_url=redis_url))) as stage:
        stage.working.clear()
        yield stage


def small(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), colour).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def previews_of(stage: Stage) -> Previews:
    assert stage.context.previews is not None
    return stage.context.previews


def begun(stage: Stage, n: int = 1) -> Claim:
    """A render that a worker has in hand."""
    stage.client().post("/v1/renders", json={"prompt": "a star", "n": n})
    return claimed(stage, n)


def claimed(stage: Stage, n: int = 1) -> Claim:
    claim = stage.services.jobs.claim(model="tiny", worker="by hand", limit=n)
    assert claim is not None
    assert len(claim.jobs) == n
    progress(stage, claim, 0)
    return claim


def progress(stage: Stage, claim: Claim, done: int) -> None:
    """Note how far jobs are, as a worker's heartbeat does."""
    jobs = json.dumps([[job.id, done, 4] for job in claim.jobs])
    with stage.services.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM workers")
        connection.exec_driver_sql(
            "INSERT INTO workers (name, host, device, device_name, pid, models, state, batch, pictures, rate, "
            "started_at, seen_at, run, jobs) "
            "VALUES ('by hand', 'h', 'cpu:0', 'c', 1, '[]', 'rendering', 1, 0, 0, 0, 0, '', ?)",
            (jobs,),
        )


def shown(stage: Stage, claim: Claim, step: int = 1, **said: Any) -> None:
    """Leave previews of what a worker has in hand."""
    told = {"image": small(), **said}
    previews_of(stage).put(Preview(job=job.name, attempt=job.attempt, step=step, steps=4, **told) for job in claim.jobs)
