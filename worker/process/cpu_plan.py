"""How many workers a CPU gets, and how many threads each: decided from cores, free memory and the models served."""

from collections.abc import Mapping
from dataclasses import dataclass

#: Weights of a model whose single operations are too short to be worth sharing out among threads. With the shipped
#: model (16 MB) on two quiet cores, a batch of 8: two threads of one process 4.0 pictures a second where they sleep
#: while they wait for each other, 9.7 where they spin (5.7 and 1 beside a busy program); one thread in each of two
#: processes 13. A model of gigabytes keeps all threads busy for long, and its next picture is not to wait for one.
_SMALL_BYTES = 256 * 2**20
#: What a worker takes beside its models: PyTorch, Diffusers, and Celery's process.
_WORKER_BYTES = 800 * 2**20
#: Each has connections to the database of its own, of which PostgreSQL has 100 unless it is told otherwise.
_MOST_WORKERS = 16
#: Of the free memory, what workers may take together; the rest is for pictures and for other programs.
_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class CpuPlan:
    """Hold how many workers there are, how many threads each has, and why."""

    workers: int
    threads: int
    because: str


def plan_cpu(*, cores: int, memory: int, models: Mapping[str, int | None], threads: int | None = None) -> CpuPlan:
    """Decide how a CPU is shared out.

    Args:
        memory: bytes that are free.
        models: alias → bytes of its weights once loaded; None where its files are not here yet.
        threads: how many each worker has to have, if the user says so.
    """
    each = threads or 1
    most = max(1, cores // each)
    unknown = [alias for alias, size in models.items() if size is None]
    if unknown:
        return CpuPlan(workers=1, threads=threads or cores, because=f"the size of {unknown[0]} is not known yet")
    largest = max(models, key=lambda alias: models[alias] or 0)
    if (models[largest] or 0) > _SMALL_BYTES:
        return CpuPlan(workers=1, threads=threads or cores, because=f"{largest} is large: it keeps all threads busy")
    loaded = sum(size or 0 for size in models.values())
    fit = int(memory * _SHARE) // (_WORKER_BYTES + loaded)
    if fit < min(most, _MOST_WORKERS):
        workers = max(1, fit)
        because = f"{memory / 2**30:.1f} GiB of free memory are enough for {workers}"
        return CpuPlan(workers=workers, threads=threads or cores // workers, because=because)
    if most > _MOST_WORKERS:
        because = f"a machine has {_MOST_WORKERS} at most, unless FARM_DEVICES names more"
        return CpuPlan(workers=_MOST_WORKERS, threads=threads or cores // _MOST_WORKERS, because=because)
    return CpuPlan(workers=most, threads=each, because="small models are fastest with a worker for each core")


def keeps_all_threads(models: Mapping[str, int | None]) -> bool:
    """Tell whether one of the models, as in `plan_cpu`, needs all threads of a CPU: it is large, or may be."""
    return any(size is None or size > _SMALL_BYTES for size in models.values())
