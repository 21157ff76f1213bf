"""A whole farm on this machine: a real worker process on the device, SQLite, a broker, pictures in a folder."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from benchmarks.gpu.bench import Bench, spread
from benchmarks.gpu.farm_in_memory import bare_loop, farm_batch
from benchmarks.gpu.farm_models import entry, specs_of
from benchmarks.gpu.speed import steps_of
from scheduler.intake.submit import quanta
from scheduler.local.local_farm import use
from scheduler.services import Services, open_services, open_tickets
from storage.broker.tickets import Tickets
from storage.jobs.values import Submission
from storage.rules.states import Priority
from storage.settings import Settings

_ALIAS = "random"
_MODEL = "sd15"
_ROUNDS = 7
#: Batches of a round, and renders of one picture on the idle farm.
_BATCHES = 4
_SINGLES = 5
_POLL_SECONDS = 0.005


def worker(bench: Bench) -> None:
    """A worker process from submit to stored in turns with a bare loop, which has its own model on the same device."""
    # The worker's process needs memory, too.
    bench.forget()
    batch, pipeline = farm_batch(bench, _MODEL), bench.pipeline(_MODEL)
    bare_loop(bench, pipeline, batch, batches=1)
    with _farm(bench, batch) as farm:
        started = time.monotonic()
        farm.rendered(batch, first=0)
        bench.note(model=_MODEL, what="start, load, first batch", batch=batch, seconds=time.monotonic() - started)
        farm_rates, bare_rates, idle = [], [], []
        for number in range(2 if bench.tiny else _ROUNDS):
            started, count = time.monotonic(), batch * _BATCHES
            bare_rates.append(count / bare_loop(bench, pipeline, batch, batches=_BATCHES))
            seconds, rendering = farm.rendered(count, first=1000 * (number + 1))
            farm_rates.append(count / seconds)
            idle.append(1 - rendering / seconds)
            if bench.left < 1.3 * (time.monotonic() - started) + 10:
                break
        ratio = spread([one / other for one, other in zip(farm_rates, bare_rates, strict=True)])
        bench.note(
            model=_MODEL,
            what="pictures, from submit to stored",
            how="SQLite, folder",
            batch=batch,
            steps=steps_of(bench),
            rounds=len(farm_rates),
            farm_over_bare=ratio["median"],
            farm_over_bare_rounds=ratio,
            # Of the whole render: with what is before its first batch and after its last one.
            idle_share_of_render=spread(idle),
            images_per_second=spread(farm_rates),
            bare_images_per_second=spread(bare_rates),
        )
        beside, alone, singles = [], [], range(2 if bench.tiny else _SINGLES)
        for number in singles:
            seconds, rendering = farm.rendered(1, first=number)
            beside.append(1e3 * (seconds - rendering))
            alone.append(seconds)
        bench.note(model=_MODEL, what="one picture on an idle farm, beside rendering", milliseconds=spread(beside))
        urgent = farm.beside_bulk(16 * batch * len(singles), [len(singles) + number for number in singles])
        bench.note(
            model=_MODEL,
            what="an urgent picture beside a bulk render",
            over_idle=spread(urgent)["median"] / spread(alone)["median"],
            seconds=spread(urgent),
        )


@dataclass(frozen=True, kw_only=True)
class _RunningFarm:
    bench: Bench
    services: Services
    tickets: Tickets

    def beside_bulk(self, n: int, seeds: Sequence[int]) -> list[float]:
        """Return the seconds of urgent pictures, one after the other, while a bulk render of so many runs.

        Raises RuntimeError if it ended before they did, or one fails; NoTimeLeft.
        """
        bulk = self._submit(n, first=10_000, priority=Priority.BULK)
        while not self.services.views.render(bulk).done:
            self.bench.check_time(1, "a bulk render that begins")
            time.sleep(_POLL_SECONDS)
        found = [self.rendered(1, first=seed, priority=Priority.INTERACTIVE)[0] for seed in seeds]
        if self.services.views.render(bulk).finished:
            raise RuntimeError("the bulk render ended before the urgent pictures did")
        self.services.jobs.cancel(bulk)
        return found

    def _submit(self, n: int, *, first: int, priority: Priority) -> str:
        services = self.services
        specs = specs_of(services.registry, _ALIAS, n, first=first)
        submission = Submission(owner="benchmark", priority=priority)
        render_id = services.jobs.submit(specs, submission, quanta=quanta(services.registry))
        self.tickets.publish(_ALIAS, priority)
        return render_id

    def rendered(self, n: int, *, first: int, priority: Priority = Priority.NORMAL) -> tuple[float, float]:
        """Submit pictures and wait; return the seconds until the last was stored, and those of rendering.

        Raises RuntimeError if one fails; NoTimeLeft.
        """
        services, started = self.services, time.time()
        render_id = self._submit(n, first=first, priority=priority)
        while not (render := services.views.render(render_id)).finished:
            self.bench.check_time(1, f"{render.remaining} of {n} pictures that the farm renders")
            time.sleep(_POLL_SECONDS)
        if render.done != n or render.finished_at is None:
            why = {job.error for job in services.views.jobs(render_id) if job.error}
            raise RuntimeError(f"{n - render.done} of {n} pictures failed: {'; '.join(why)}"[:300])
        batches = {job.batch_id for job in services.views.jobs(render_id)}
        rendering = sum(services.views.batch(one).render_seconds for one in batches if one)
        return render.finished_at - started, rendering


@contextmanager
def _farm(bench: Bench, batch: int) -> Iterator[_RunningFarm]:
    home = bench.folder / "home"
    home.mkdir()
    (home / "models.toml").write_text(entry(bench, _MODEL, alias=_ALIAS, batch_limit=batch))
    # Of the user's own farm; this process is the benchmark's, and its farm inherits them.
    for name in [name for name in os.environ if name.startswith("FARM_")]:
        del os.environ[name]
    os.environ["FARM_DEVICES"] = f"{bench.device}:0"
    settings = Settings(home=home)
    with use(settings, say=lambda _: None) as broker_url:
        services = open_services(settings)
        with closing(services.database):
            yield _RunningFarm(bench=bench, services=services, tickets=open_tickets(settings, broker_url))
