"""A real farm for tests: Redis, a database, a store, a scheduler process and workers, each a process of its own."""

import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Row, func, select

from scheduler.intake.submit import quanta
from scheduler.services import Services, open_services
from storage.broker.tickets import Tickets
from storage.database.tables import jobs, orphans
from storage.jobs.values import Submission
from storage.renders.views import RenderView
from storage.rules.states import Priority, State
from storage.settings import Settings
from storage.spec.picture import Request
from tests.forks import WITH_TORCH, Starter
from tests.servers import eventually, stop, stopped_at_the_end

#: For the tests in which one has to run out; else a busy machine might tell a lost lease in place of what happened.
SHORT_LEASES = {"FARM_LEASE_SECONDS": "4", "FARM_RENEW_SECONDS": "1"}

#: Two models, so that workers have to choose; fast, so that tests are. Eight pictures of the second take a second, and
#: one alone, such as one that may have killed a worker, a quarter. Of the third no picture is ever done; batches of
#: the fourth may grow.
MODELS = """
[models.quick]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 2
batch_limit = 8
seconds_per_step = 0.002
seconds_per_step_and_picture = 0.0005

[models.slow]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 4
batch_limit = 8
seconds_per_step = 0.03
seconds_per_step_and_picture = 0.0275

[models.endless]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 1
seconds_per_step = 3600
seconds_per_step_and_picture = 0.0

[models.learning]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 12
seconds_per_step = 0.012
seconds_per_step_and_picture = 0.0
"""


@dataclass
class Farm:
    """The parts that a test started, and what it may ask of them."""

    settings: Settings
    folder: Path
    environment: dict[str, str]
    stack: ExitStack
    starter: Starter
    services: Services = field(init=False)
    tickets: Tickets = field(init=False)

    def __post_init__(self) -> None:
        self.services = open_services(self.settings)
        self.stack.callback(self.services.database.close)
        self.tickets = Tickets(self.settings)

    # -- parts -------------------------------------------------------------------------------------------------

    def scheduler(self) -> subprocess.Popen[bytes]:
        return self._start("scheduler", ["scheduler.cli.main", "scheduler"], {})

    def api(self) -> str:
        """`farm api` on a free port; where it answers, once it does."""
        self._start("api", ["scheduler.cli.main", "api", "--port", "0"], {})
        log = self.folder / "api.log"

        def address() -> str | None:
            found = re.search(r"listening on (http://\S+?),", log.read_text())
            return None if found is None else found[1]

        return str(eventually(address, f"the API listens ({log})"))

    def workers(self, devices: int = 1, *, machine: str = "here", **settings: str) -> subprocess.Popen[bytes]:
        """`farm-worker` with simulated devices, as on a machine of this name; returns when they serve."""
        before = {worker.name for worker in self.services.workers.all()}
        process = self.machine(devices, name=machine, **settings)
        eventually(
            lambda: len({worker.name for worker in self.services.workers.all()} - before) == devices,
            f"{devices} workers of {machine} announced themselves",
        )
        return process

    def machine(self, devices: int, *, name: str, **settings: str) -> subprocess.Popen[bytes]:
        """The same, not waited for: one that was killed is still known, and is started again."""
        module = ["worker.process.supervisor", "--simulated", str(devices)]
        return self._start(f"workers-{name}", module, {"FARM_WORKER_NAME": name, **settings})

    def on_cpu(self, **settings: str) -> subprocess.Popen[bytes]:
        """`farm-worker` on this machine's CPU, with PyTorch; not waited for."""
        return self._start(
            "workers-cpu", ["worker.process.supervisor"], {**WITH_TORCH, "FARM_DEVICES": "cpu:0", **settings}
        )

    def _start(self, name: str, module: Sequence[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
        command, log = [sys.executable, "-m", *module], self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = self.starter.start(command, env=self.environment | settings, stdout=output, stderr=output)
        self.stack.enter_context(stopped_at_the_end(process))
        return process

    def freeze(self, process: subprocess.Popen[bytes]) -> list[Any]:
        """As `freeze`, and at a moment at which nobody holds the one lock of an SQLite file: none could take it."""
        frozen: list[Any] = []

        def frozen_while_others_may_write() -> bool:
            frozen[:] = freeze(process)
            url = self.services.database.engine.url
            if url.get_backend_name() != "sqlite":
                return True
            with closing(sqlite3.connect(str(url.database), timeout=0.5)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    resume(frozen)
                    return False
            return True

        eventually(frozen_while_others_may_write, "it was stopped outside of a transaction")
        return frozen

    # -- work --------------------------------------------------------------------------------------------------

    def submit(
        self,
        n: int,
        *,
        model: str = "quick",
        owner: str = "ann",
        priority: Priority = Priority.NORMAL,
        call: bool = True,
    ) -> str:
        """A render of n pictures; without `call` its tickets are left to the sweep."""
        request = Request.parse({"prompt": "a red star", "model": model})
        specs = (self.services.registry.resolve(request, seed=seed) for seed in range(n))
        render_id = self.services.jobs.submit(
            specs, Submission(owner=owner, priority=priority), quanta=quanta(self.services.registry)
        )
        if call:
            self.tickets.publish(model, priority, min(8, -(-n // 8)))
        return render_id

    def render(self, render_id: str) -> RenderView:
        return self.services.views.render(render_id)

    def finished(self, render_id: str, *, timeout: float = 120) -> RenderView:
        """Wait for the end of a render."""
        eventually(lambda: self.render(render_id).finished, f"render {render_id} is finished", timeout=timeout)
        return self.render(render_id)

    def some_done(self, render_id: str, n: int = 1) -> None:
        eventually(lambda: self.render(render_id).done >= n, f"{n} pictures of {render_id} are done")

    def rows(self, render_id: str) -> list[Row[*tuple[Any, ...]]]:
        with self.services.database.read() as connection:
            return list(connection.execute(select(jobs).where(jobs.c.render_id == render_id).order_by(jobs.c.index)))

    def orphans(self) -> int:
        """Jobs whose pictures are still to be removed."""
        with self.services.database.read() as connection:
            return connection.execute(select(func.count()).select_from(orphans)).scalar_one()

    # -- what must hold ----------------------------------------------------------------------------------------

    def assert_sound(self, render_id: str) -> None:
        """Every job final, counters as the rows say, each done row one object with the recorded hash, none besides."""
        rows, render = self.rows(render_id), self.render(render_id)
        states = Counter(row.state for row in rows)
        assert len(rows) == render.total
        assert states == Counter(
            {
                name: n
                for name, n in {
                    State.DONE: render.done,
                    State.FAILED: render.failed,
                    State.CANCELLED: render.cancelled,
                }.items()
                if n
            }
        )
        assert render.finished_at is not None
        done = [row for row in rows if row.state == State.DONE]
        for row in done:
            data = self.services.objects.get(row.object)
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (row.sha256, row.bytes)
        assert sorted(row.object for row in done) == list(self.services.objects.list(f"renders/{render_id}/"))


@contextmanager
def new_farm(settings: Settings, folder: Path, environment: dict[str, str], starter: Starter) -> Iterator[Farm]:
    with ExitStack() as stack:
        yield Farm(settings=settings, folder=folder, environment=os.environ | environment, stack=stack, starter=starter)


def device_processes(supervisor: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The Celery worker of each device, by device, as its environment names it."""
    return {
        process.environ()["FARM_DEVICES"]: process
        for process in psutil.Process(supervisor.pid).children()
        if process.status() != psutil.STATUS_ZOMBIE
    }


def child_of(worker: Any) -> Any:
    """The spawned process that owns the device, below the light parent."""
    return next(process for process in worker.children() if "billiard.spawn" in " ".join(process.cmdline()))


def kill_machine(supervisor: subprocess.Popen[bytes]) -> None:
    """As a power cut: supervisor, parents and children at once."""
    processes = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.kill()
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # whoever sees its parent die may be gone already
            process.kill()
    supervisor.wait()


def freeze(supervisor: subprocess.Popen[bytes]) -> list[Any]:
    """Stop every process of a machine, as a swapped-out or suspended one; `resume` wakes them."""
    processes = [psutil.Process(supervisor.pid), *psutil.Process(supervisor.pid).children(recursive=True)]
    for process in processes:
        stop(process.pid)
    return processes


def resume(processes: Sequence[Any]) -> None:
    for process in processes:
        process.send_signal(signal.SIGCONT)
