"""A farm as in earnest: `farm api`, a scheduler process and a worker, on PostgreSQL, Redis and S3."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from scheduler.services import Services, open_services
from storage.access.keys import Keys, Limits, Role
from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.settings import Settings
from tests import servers
from tests.forks import Starter
from tests.servers import eventually, stopped_at_the_end

_MODELS = """
default = "quick"

[models.quick]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 4
seconds_per_step = 0.005
seconds_per_step_and_picture = 0.0

[models.slow]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 20
batch_limit = 16
seconds_per_step = 0.05
seconds_per_step_and_picture = 0.0
"""
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Besieged:
    """The farm, and what its besiegers do not see of it."""

    address: str
    folder: Path
    services: Services
    #: By name, those that were started here; each may have started others.
    processes: Mapping[str, "subprocess.Popen[bytes]"]

    def key(self, owner: str, *, limits: Limits | None = None) -> str:
        return self._keys.create(name=owner, owner=owner, role=Role.SUBMIT, limits=limits or Limits())[1]

    def revoked_key(self, owner: str) -> str:
        key, secret = self._keys.create(name="revoked", owner=owner, role=Role.ADMIN, limits=Limits())
        self._keys.revoke(key.id)
        return secret

    @property
    def _keys(self) -> Keys:
        return Keys(self.services.database)

    def memory(self) -> dict[str, float]:
        """Resident memory of each process of the farm in MiB, by name."""
        found: dict[str, float] = {}
        for name, started in self.processes.items():
            for number, process in enumerate(_family(started.pid)):
                try:
                    found[f"{name}.{number}" if number else name] = process.memory_info().rss / _MIB
                except psutil.NoSuchProcess:
                    continue
        return found

    def ended(self) -> list[str]:
        """Processes that should run and do not."""
        return [
            f"{name} ended with exit code {process.returncode}"
            for name, process in self.processes.items()
            if process.poll() is not None
        ]

    def tracebacks(self) -> list[str]:
        """What the processes' logs tell of faults that nobody expected: each traceback's last line."""
        return [
            f"{log.name}: {found[1].strip()[:300]}"
            for log in sorted(self.folder.glob("*.log"))
            for found in re.finditer(
                r"^Traceback \(most recent call last\):\n(?:[ |+].*\n|\n)*(.*)", log.read_text(errors="replace"), re.M
            )
        ]


def _family(pid: int) -> Sequence[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *sorted(parent.children(recursive=True), key=lambda child: child.create_time())]
    except psutil.NoSuchProcess:
        return ()


@contextmanager
def besieged(folder: Path, starter: Starter) -> Iterator[Besieged]:
    """Start everything; nothing of it is left at the end."""
    with ExitStack() as stack:
        surroundings = stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in os.environ if name.startswith(("FARM_", "AWS_"))]:
            surroundings.delenv(name)
        redis_url = stack.enter_context(servers.redis_server(folder))
        postgres = stack.enter_context(servers.postgres_server())
        s3 = stack.enter_context(servers.moto_server(folder))
        models = folder / "models.toml"
        models.write_text(_MODELS)
        environment = {
            **s3.environment,
            "AWS_EC2_METADATA_DISABLED": "true",
            "FARM_HOME": str(folder / "home"),
            "FARM_MODELS_FILE": str(models),
            "FARM_DATABASE_URL": postgres.url(postgres.create()),
            "FARM_BROKER_URL": redis_url,
            "FARM_OBJECTS_URL": f"s3://{s3.create_bucket()}/farm",
            "FARM_S3_ENDPOINT_URL": s3.endpoint_url,
        }
        for name, value in environment.items():
            surroundings.setenv(name, value)
        settings = Settings()
        with closing(Database(settings.database)) as database:
            upgrade(database)
        services = open_services(settings)
        stack.callback(services.database.close)
        commands = {
            "api": ["scheduler.cli.main", "api", "--port", "0"],
            "scheduler": ["scheduler.cli.main", "scheduler"],
            "worker": ["worker.process.supervisor", "--simulated", "1"],
        }
        processes = {
            name: stack.enter_context(_running(starter, words, folder / f"farm-{name}.log"))
            for name, words in commands.items()
        }
        address = eventually(lambda: _address(folder / "farm-api.log"), "the API listens")
        eventually(lambda: httpx.get(f"{address}/readyz", timeout=60).is_success, "a worker serves")
        yield Besieged(address=str(address), folder=folder, services=services, processes=processes)


@contextmanager
def _running(starter: Starter, words: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = starter.start([sys.executable, "-m", *words], env=os.environ, stdout=output, stderr=output)
    with stopped_at_the_end(process):
        yield process


def _address(log: Path) -> str | None:
    match = re.search(r"listening on (http://[\d.]+:\d+)", log.read_text())
    return match[1] if match else None
