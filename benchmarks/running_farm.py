"""A farm on this machine as a user starts it, `farm up`, and what is asked of it."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from benchmarks.users import users_environment
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.manifests import manifest
from scheduler.intake.order import Order
from scheduler.intake.submit import Intake, intake_of, submit_order
from scheduler.local.home import Home
from scheduler.services import Services, open_services, open_tickets
from storage.database.tables import batches, jobs
from storage.settings import Settings
from storage.spec.registry import read_registry
from tests.servers import eventually, stopped_at_the_end
from worker.process.cpu_share import share_cpu

#: Rarely enough to cost the farm nothing; when a picture was done its row says.
_LOOK_EVERY_SECONDS = 0.05
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class RenderedFor:
    """A render that is done; times in seconds since 1970, by this machine's clock, as rows have them."""

    submitted_at: float
    #: When the last picture was stored and its row said so.
    done_at: float
    #: Of each batch in turn: when it was stored, and how long its pipeline call took.
    batches: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """From submission to stored."""
        return self.done_at - self.submitted_at

    @property
    def pipeline_seconds(self) -> float:
        return sum(seconds for _, seconds in self.batches)


class BenchFarm:
    """Submits to a farm that runs, and waits."""

    def __init__(self, services: Services, intake: Intake, *, workers: int = 1) -> None:
        """
        Args:
            workers: how many there are once all that a backlog calls for have started.
        """
        self.services = services
        self._workers = workers
        self._intake = intake
        self._submitter = Submitter(owner="bench")

    def render(self, prompts: Sequence[str], *, model: str, seed: int, together: bool = True) -> RenderedFor:
        """Render prompts, in one submission or in one each, and wait until all are stored. Raises AssertionError."""
        submitted_at = time.time()
        parts = [tuple(prompts)] if together else [(prompt,) for prompt in prompts]
        orders = (
            Order(prompts=part, defaults={"model": model}, seed=seed + number) for number, part in enumerate(parts)
        )
        return self._rendered([self._submit(order) for order in orders], submitted_at, len(prompts))

    def warm_up(self, prompts: Sequence[str], *, model: str, seconds: float) -> None:
        """Render, at last for about so long at once: the model loads, and workers that start with a backlog do.

        Raises AssertionError, if they do not start.
        """
        self.render(prompts, model=model, seed=0)
        pace = len(prompts) / self.render(prompts, model=model, seed=0).seconds
        if not seconds:
            return
        # However slow this machine is now, there must be work for several workers.
        pictures = max(int(pace * seconds), 4 * len(prompts))
        backlog = [prompts[number % len(prompts)] for number in range(pictures)]
        started = time.monotonic()
        while len(self.services.workers.all()) < self._workers:
            if time.monotonic() - started > _PATIENCE_SECONDS:
                raise AssertionError(f"of {self._workers} workers, {len(self.services.workers.all())} started")
            self.render(backlog, model=model, seed=0)
        # Those that came last load it now.
        self.render([*prompts] * 2 * self._workers, model=model, seed=0)

    def render_file(self, file: Path, *, pictures: int) -> RenderedFor:
        """The same, of a prompt file."""
        submitted_at = time.time()
        return self._rendered([self._submit(Order(manifest=manifest(file)))], submitted_at, pictures)

    def _submit(self, order: Order) -> str:
        return submit_order(self._intake, self._submitter, order, Terms()).render_id

    def _wait(self, renders: Sequence[str]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not all(self.services.views.render(render).finished for render in reversed(renders)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(renders)} renders take more than {_PATIENCE_SECONDS:.0f} s")
            time.sleep(_LOOK_EVERY_SECONDS)

    def _rendered(self, renders: Sequence[str], submitted_at: float, pictures: int) -> RenderedFor:
        self._wait(renders)
        with self.services.database.read() as connection:
            found = connection.execute(
                select(jobs.c.state, jobs.c.finished_at, jobs.c.batch_id).where(jobs.c.render_id.in_(renders))
            ).all()
            calls = connection.execute(
                select(batches.c.finished_at, batches.c.render_seconds)
                .where(batches.c.id.in_({row.batch_id for row in found}))
                .order_by(batches.c.finished_at)
            ).all()
        done = [row.finished_at for row in found if row.state == "done"]
        if len(done) < pictures:
            raise AssertionError(f"{pictures - len(done)} of {pictures} pictures failed")
        return RenderedFor(
            submitted_at=submitted_at,
            done_at=max(done),
            batches=tuple((row.finished_at, row.render_seconds) for row in calls),
        )


@contextmanager
def running_farm(folder: Path, *, models: str | None = None, **settings: str) -> Iterator[BenchFarm]:
    """`farm up`, with the farm's own defaults but for these settings; ended at the end.

    Args:
        models: a registry; else the built-in one.
        settings: `FARM_…`, and AWS's, which a store in a bucket needs.
    """
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    if models is not None:
        (home / "models.toml").write_text(models)
    environment = users_environment(FARM_HOME=str(home), **settings)
    with (folder / "farm.log").open("wb") as log:
        command = [sys.executable, "-m", "scheduler.cli.main", "up"]
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    with stopped_at_the_end(process):
        given = {
            name.removeprefix("FARM_").lower(): value for name, value in settings.items() if name.startswith("FARM_")
        }
        own = Settings(home=home, **given)
        broker = str(eventually(lambda: _broker(process, own, folder / "farm.log"), "the farm is up"))
        services = open_services(own)
        try:
            eventually(lambda: services.workers.all(), "its workers serve")
            tickets = open_tickets(own, broker)
            yield BenchFarm(services, intake_of(services, tickets), workers=_planned_workers(own))
        finally:
            services.database.close()


def _planned_workers(settings: Settings) -> int:
    """Return how many workers the farm has here once all have started; what it runs on is this process's, too."""
    devices, _ = share_cpu(settings, read_registry(settings))
    return len(devices)


def _broker(process: subprocess.Popen[bytes], settings: Settings, log: Path) -> str | None:
    if process.poll() is not None:
        raise RuntimeError(f"farm up ended: {' / '.join(log.read_text(errors='replace').strip().splitlines()[-3:])}")
    farm = Home(settings).running() if (settings.home / "run").is_dir() else None
    return None if farm is None else farm.broker_url
