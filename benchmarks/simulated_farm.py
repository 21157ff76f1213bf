"""A farm of simulated devices, and Celery workers, as processes that are watched."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command import free_environment
from benchmarks.machine import REPOSITORY
from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.settings import Settings
from tests.forks import Starter
from tests.integration.farm import MODELS, Farm, new_farm
from tests.servers import eventually, running

#: Seconds on processors in a second; a process that starts uses all that it gets.
_AT_REST = 0.2


@contextmanager
def simulated_farm(folder: Path, database_url: str, broker_url: str, **settings: str) -> Iterator[Farm]:
    """A farm whose parts can be started; the model `quick` takes 5 ms for a batch, and `slow` a second."""
    (folder / "models.toml").write_text(MODELS)
    environment = free_environment(
        PYTHONPATH=os.pathsep.join([str(REPOSITORY), *sys.path]),
        FARM_HOME=str(folder / "home"),
        FARM_BROKER_URL=broker_url,
        FARM_MODELS_FILE=str(folder / "models.toml"),
        FARM_DATABASE_URL=database_url,
        FARM_OBJECTS_URL=str(folder / "objects"),
        **settings,
    )
    database = Database(database_url)
    upgrade(database)
    database.close()
    known = Settings(
        home=folder / "home",
        broker_url=broker_url,
        models_file=folder / "models.toml",
        database_url=database_url,
        objects_url=str(folder / "objects"),
    )
    with new_farm(known, folder, environment, Starter()) as farm:
        yield farm


@contextmanager
def celery_worker(folder: Path, broker_url: str, processes: int) -> Iterator[int]:
    """A Celery worker of so many processes that serves `benchmarks.peers.counting_tasks`; its process id."""
    log = folder / "celery.log"
    environment = free_environment(PYTHONPATH=os.pathsep.join([str(REPOSITORY), *sys.path]), PEER_BROKER=broker_url)
    command = [sys.executable, "-m", "celery", "--app", "benchmarks.peers.counting_tasks", "worker"]
    command += ["--loglevel", "INFO", "--concurrency", str(processes), "--hostname", "peer@%h"]
    with running(command, log, env=environment) as process:
        eventually(lambda: "ready." in log.read_text(errors="replace"), f"the Celery worker is ready ({log})")
        yield process.pid


@dataclass(frozen=True)
class Family:
    """A process and those that it has started."""

    pid: int

    def members(self) -> Sequence[psutil.Process]:
        """Return those that run now."""
        top = psutil.Process(self.pid)
        return [top, *top.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return what all have spent on processors so far; those that have ended do not count."""
        return sum(_cpu_seconds(process) for process in self.members())

    def at_rest(self) -> bool:
        """Watch for a second, and return whether all of them together spent less than a fifth of it."""
        before = self.cpu_seconds()
        time.sleep(1)
        return self.cpu_seconds() - before < _AT_REST

    def mib(self) -> float:
        """Return the resident memory of all."""
        return sum(float(process.memory_info().rss) for process in self.members()) / 2**20


def process_name(process: Any) -> str:
    """Return what a process of the farm is, and its id."""
    words = " ".join(process.cmdline())
    kind = next(
        title
        for sign, title in (
            ("scheduler.cli.main", "scheduler process"),
            ("worker.process.supervisor", "supervisor"),
            ("worker.process.parent", "worker, parent"),
            ("spawn_main", "worker, device process"),
            ("celery", "Celery worker"),
            ("", "helper of the pool"),
        )
        if sign in words
    )
    return f"{kind} {process.pid}"


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The process's own clock, as clock_getcpuclockid(3) names it: in nanoseconds, where its times are in ticks of
        # 10 ms, which is all that an idle process spends in a second.
        return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)
