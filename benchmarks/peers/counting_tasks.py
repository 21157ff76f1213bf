"""A Celery task that does nothing but count: what a worker costs that has no work.

celery --app benchmarks.peers.counting_tasks worker --concurrency 2
"""

import functools
import os
from typing import Any

import redis
from celery import Celery

#: In Redis: how many tasks have run.
DONE = "benchmarks:done"

app = Celery("tasks", broker=os.environ.get("PEER_BROKER"), set_as_current=False)


@functools.cache
def _counter() -> Any:
    return redis.Redis.from_url(os.environ["PEER_BROKER"])


@app.task(name="draw")  # type: ignore[untyped-decorator]
def draw(prompt: str, seed: int) -> None:
    """Count one picture as drawn."""
    if prompt and seed >= 0:
        _counter().incr(DONE)
