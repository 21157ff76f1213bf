"""Seeing a render through: a broker to call workers with, progress while it runs, a summary at its end."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import click

from scheduler.cli.interrupts import heard_interrupts
from scheduler.cli.output import counted, duration, hint, print_json, rate, say
from scheduler.cli.progress import progress_of
from scheduler.cli.status import job_fields, shown_render
from scheduler.intake.submit import Accepted, publish_tickets
from scheduler.local import local_farm, redis_server
from scheduler.local.home import Home
from scheduler.results.download import Downloads
from scheduler.results.file_names import FileNames
from scheduler.results.fleet_seen import FleetSeen
from scheduler.results.follow import wait_for_render
from scheduler.results.outlook import why_next
from scheduler.results.why import Hindered, Hindrance, nobody_renders, what_hinders
from scheduler.services import Services, open_tickets
from storage.broker.tickets import Tickets
from storage.errors import BadSettings, ServiceProblem
from storage.renders.views import JobView, RenderView
from storage.rules.states import State

#: An embedded worker that is not up by then has a reason that is worth reading.
_WORKER_SECONDS = 90.0
_LOOK_EVERY_SECONDS = 2.0
_SHOWN_FAILURES = 5
_WAY_OUT = {
    Hindrance.NO_WORKER: "`farm workers` lists those that were there",
    Hindrance.NOT_SERVED: "`farm-worker` starts one that does, on a machine with a device",
    Hindrance.QUARANTINE: "`farm workers` says for what, `farm workers release WORKER` ends it",
    Hindrance.TROUBLE: "It goes on by itself once that is over",
}


def reachable_broker(services: Services) -> Tickets | None:
    """Return tickets over the running broker, or None if it is an embedded one that is not running yet.

    Raises BrokerProblem if a configured one cannot be reached, BadSettings if there is none to start either.
    """
    settings = services.settings
    if settings.broker_url is not None:
        return open_tickets(settings, settings.broker_url)
    if farm := Home(settings).running():
        return open_tickets(settings, farm.broker_url)
    if not settings.embedded:
        raise BadSettings(
            "other addresses are set but FARM_BROKER_URL is not; set it, or run `farm up` in another terminal"
        )
    redis_server.require()
    if find_spec("diffusers") is None:
        raise BadSettings(
            "no renderer is installed on this machine; set FARM_DATABASE_URL, FARM_BROKER_URL and "
            'FARM_OBJECTS_URL to use a farm elsewhere, or run `pip install "diffusion-farm[worker,embedded]"`'
        )
    return None


@dataclass(frozen=True, kw_only=True)
class FinishedRender:
    """A render that finished while we waited."""

    render: RenderView
    #: How long we waited; None if it was finished before.
    seconds: float | None
    out: Path | None
    #: Of the files in `out`; None: as ever.
    names: FileNames | None = None
    #: Index → file, of pictures that were not given the name of one that was there.
    renamed: Mapping[int, Path] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if every picture is done, else 1."""
        return 0 if self.render.done == self.render.total else 1


def see_through(
    services: Services, accepted: Accepted, *, out: Path | None = None, names: FileNames | None = None
) -> FinishedRender:
    """Wait until a render is finished and its pictures are in `out`, showing progress."""
    downloads = (
        None if out is None else Downloads(services.views, services.objects, accepted.render_id, out, names=names)
    )
    with heard_interrupts() as check_interrupt, _farm(services, accepted.models):
        started = time.monotonic()
        try:
            render = _followed(services, accepted, downloads, check_interrupt)
        except KeyboardInterrupt:
            _say_what_becomes_of(services, accepted.render_id)
            raise
        renamed = downloads.renamed if downloads is not None else {}
        seconds = time.monotonic() - started
        return FinishedRender(render=render, seconds=seconds, out=out, names=names, renamed=renamed)


def report(services: Services, outcome: FinishedRender, *, as_json: bool) -> None:
    """Print how a render ended."""
    if outcome.out is not None:
        say_renamed(outcome.out, outcome.renamed)
    if as_json:
        print_json(_result(services, outcome))
    else:
        _summarise(services, outcome)


def say_renamed(out: Path, renamed: Mapping[int, Path]) -> None:
    """Say that pictures did not get the names of others that were there."""
    if renamed:
        n, file = len(renamed), renamed[min(renamed)]
        say(
            f"{out} held other pictures under the names of {counted(n, 'picture')}; they are kept, and the new "
            f"ones have the render in their names, such as {file.name}"
        )


def report_accepted(services: Services, accepted: Accepted, *, as_json: bool, called: bool) -> None:
    """Print that a render was accepted and is queued."""
    render = services.views.render(accepted.render_id)
    if as_json:
        print_json(shown_render(services, render))
        return
    click.echo(render.id)
    hint(
        f"accepted render {render.id} with {counted(render.remaining, 'job')}; follow it with `farm watch {render.id}`"
    )
    if not called:
        hint("no farm is running on this machine; `farm up` starts one, which renders the queue")


@contextlib.contextmanager
def _farm(services: Services, models: Iterable[str]) -> Iterator[None]:
    """Keep a farm running while we wait: the embedded one, started if need be, or the one elsewhere."""
    settings = services.settings
    if not settings.embedded:
        yield
        return
    with local_farm.use(settings, say=hint) as broker_url:
        publish_tickets(services.jobs, services.registry, open_tickets(settings, broker_url), models)
        yield


def _followed(
    services: Services, accepted: Accepted, downloads: Downloads | None, check_interrupt: Callable[[], None]
) -> RenderView:
    render_id = accepted.render_id
    total = services.views.render(render_id).total
    watch = WorkerWatch(services, accepted.models)
    with progress_of(f"render {render_id}", total) as show:
        seen: RenderView | None = None

        def look(render: RenderView) -> bool:
            nonlocal seen
            check_interrupt()
            show(render, watch.look(render))
            news, seen = render != seen or render.finished, render
            return downloads is not None and news and downloads.advance() > 0

        return wait_for_render(services.views, render_id, look=look)


class WorkerWatch:
    """Looks whether anybody works for us, and says once for each model why nobody does."""

    def __init__(self, services: Services, models: Iterable[str]) -> None:
        self._services = services
        self._models = sorted(models)
        self._said: set[tuple[str, Hindrance]] = set()
        self._started = time.monotonic()
        self._look_at = 0.0
        self._note = ""

    def look(self, render: RenderView) -> str:
        """Say what is to be said, and return in a few words what the render waits for; empty: for nothing.

        Raises ServiceProblem if the farm on this machine that worked for us is no more.
        """
        if render.finished:
            return ""
        if time.monotonic() < self._look_at:
            return self._note
        self._look_at = time.monotonic() + _LOOK_EVERY_SECONDS
        if self._services.settings.embedded:
            self._look_for_the_farm()
        for model in self._models:
            hindered = what_hinders(FleetSeen(self._services), model)
            if hindered is not None and (model, hindered.kind) not in self._said:
                self._say(model, hindered)
        self._note = self._what_it_waits_for(render)
        return self._note

    def _what_it_waits_for(self, render: RenderView) -> str:
        services = self._services
        if render.held:
            return f"held; `farm release {render.id}` resumes it"
        job = None if render.running else services.views.next_waiting(render.id)
        if job is None:
            return ""
        if services.settings.embedded and nobody_renders(services) is not None:
            return "the worker is starting"
        return why_next(services, job)

    def _look_for_the_farm(self) -> None:
        """Raises ServiceProblem if the farm that worked for us is no more."""
        home = Home(self._services.settings)
        if home.running() is None:
            raise ServiceProblem(
                "the farm on this machine has stopped; its jobs are kept, and `farm up` resumes them. "
                f"Last output: {home.last_words()}"
            )

    def _say(self, model: str, hindered: Hindered) -> None:
        """Say what keeps the jobs of a model in the queue; a farm of our own is given time to start its worker."""
        if self._services.settings.embedded and hindered.kind is Hindrance.NO_WORKER:
            if time.monotonic() - self._started > _WORKER_SECONDS:
                say(f"no worker is up yet; see {Home(self._services.settings).logs / 'farm.log'}")
                self._said |= {(one, Hindrance.NO_WORKER) for one in self._models}
            return
        say(f"{hindered.sentence}. {_WAY_OUT[hindered.kind]}; Ctrl-C leaves the render queued")
        # Of no worker at all it is said once, not for each model.
        models = self._models if hindered.kind is Hindrance.NO_WORKER else [model]
        self._said |= {(one, hindered.kind) for one in models}


def _say_what_becomes_of(services: Services, render_id: str) -> None:
    left = services.views.render(render_id).remaining
    goes_on = "`farm up` goes on with them" if services.settings.embedded else "the farm goes on with them"
    say(
        f"\nleft render {render_id} with {counted(left, 'job')} to go: {goes_on}, `farm watch {render_id}` follows "
        f"again, `farm fetch {render_id} --out DIR` downloads what is done, `farm cancel {render_id}` drops them"
    )


def _result(services: Services, outcome: FinishedRender) -> dict[str, object]:
    jobs = [{**job_fields(job), "file": _file(outcome, job)} for job in services.views.jobs(outcome.render.id)]
    return {**shown_render(services, outcome.render), "jobs": jobs}


def _file(outcome: FinishedRender, job: JobView) -> str | None:
    """Return where a picture was downloaded to."""
    if outcome.out is None or job.state is not State.DONE:
        return None
    name = job.file_name if outcome.names is None else outcome.names(job)
    return str(outcome.renamed.get(job.index, outcome.out / name))


def _summarise(services: Services, outcome: FinishedRender) -> None:
    render, took = outcome.render, outcome.seconds
    parts = [counted(render.done, "picture") + (f" ({rate(render.done / took)})" if render.done and took else "")]
    parts += [f"{n} {word}" for n, word in ((render.failed, "failed"), (render.cancelled, "cancelled")) if n]
    fetched = f"in {services.objects.shown} (`farm fetch {render.id} --out DIR` downloads them)"
    where = f"in {outcome.out}" if outcome.out else fetched
    after = "" if took is None else f" in {duration(took)}"
    click.echo(f"render {render.id} is {render.state}: {', '.join(parts)}{after}, {where}")
    for job in services.views.jobs(render.id, state=State.FAILED, limit=_SHOWN_FAILURES):
        say(f"failed: {job.id} ({job.spec.prompt[:40]}): {job.error}")
    if render.failed:
        say(f"list failures with `farm jobs {render.id} --state failed`, retry them with `farm retry {render.id}`")
