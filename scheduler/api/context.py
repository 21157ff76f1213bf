"""Give routes what they work with: the services, and only the renders that a caller may see."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from tempfile import NamedTemporaryFile
from threading import Event
from typing import Annotated, Any

from fastapi import Depends, Request

from scheduler.api.access import Caller
from scheduler.api.checks import Checks
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from scheduler.api.waiting.bounded import Bounded
from scheduler.api.waiting.farm_followers import FarmFollowers
from scheduler.api.waiting.followers import Followers
from scheduler.api.waiting.places import Places
from scheduler.api.waiting.waiters import Waiters
from scheduler.intake.manifests import Manifest
from scheduler.intake.submit import Intake, intake_of
from scheduler.results.fleet_seen import FleetSeen
from scheduler.results.signed_urls import SignedUrls
from scheduler.results.thumbnails import Thumbnails, picture_of
from scheduler.results.why import what_hinders
from scheduler.services import Services
from storage.access.signing import SigningSecrets
from storage.access.uploads import Uploads
from storage.broker.previews import Previews, previews_beside
from storage.broker.tickets import Tickets
from storage.errors import NotFound
from storage.events.log import EventLog
from storage.fleet.workers import Workers
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore
from storage.renders.openai_files import OpenAIFiles
from storage.renders.schedules import Schedules
from storage.renders.views import JobView, RenderView, Views
from storage.renders.waits import Waits
from storage.spec.registry import Registry


@dataclass(frozen=True)
class ApiContext:
    """Hold what routes work with: one per application; routes take it as a parameter of the type `Context`."""

    services: Services
    tickets: Tickets | None
    #: Where no address is set, this process keeps a farm running on its machine.
    with_worker: bool = True
    #: Limits how many uploaded inputs are checked, whole, in memory; the others wait on the disk.
    checks: Checks = field(default_factory=Checks)
    #: Owner → the settings set by the web UI's `POST /options`, as long as this process lives.
    webui_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Set when this process is asked to stop: whoever waits is then answered at once.
    ending: Event = field(default_factory=Event)

    #: How often the rows of renders that callers wait for are read.
    waits_read_seconds: float = 0.1
    #: How often the rows of renders that streams of events follow are read, and the keys of who is sent an archive.
    events_read_seconds: float = 0.5

    @property
    def jobs(self) -> Jobs:
        return self.services.jobs

    @property
    def views(self) -> Views:
        return self.services.views

    @property
    def workers(self) -> Workers:
        return self.services.workers

    @property
    def registry(self) -> Registry:
        return self.services.registry

    @property
    def objects(self) -> ObjectStore:
        return self.services.objects

    @property
    def uploads(self) -> Uploads:
        return self.services.uploads

    @property
    def intake(self) -> Intake:
        return intake_of(self.services, self.tickets, starts_workers=self.with_worker)

    @property
    def files(self) -> OpenAIFiles:
        return OpenAIFiles(self.services.database)

    @property
    def events(self) -> EventLog:
        return EventLog(self.services.database)

    @property
    def waits(self) -> Waits:
        return Waits(self.services.database)

    @cached_property
    def waiters(self) -> Waiters:
        return Waiters(self.services.database, self.ending, every_seconds=self.waits_read_seconds)

    @cached_property
    def previews(self) -> Previews | None:
        return previews_beside(self.tickets)

    @cached_property
    def followers(self) -> Followers:
        return Followers(
            self.services.database,
            self.ending,
            every_seconds=self.events_read_seconds,
            hindrance=self._hindrance,
            previews=self.previews,
        )

    @cached_property
    def farm_followers(self) -> FarmFollowers:
        return FarmFollowers(
            self.services.database,
            self.ending,
            every_seconds=self.events_read_seconds,
            places=self.followers.places,
        )

    @cached_property
    def thumbnails(self) -> Thumbnails:
        return Thumbnails(views=self.views, objects=self.objects)

    @cached_property
    def thumbnail_making(self) -> Bounded:
        # A large picture takes 50 MB while it is decoded, and a core for a tenth of a second.
        return Bounded("thumbnails that are being made", at_once=2)

    @cached_property
    def grid_drawing(self) -> Bounded:
        # 300 MB and a core each, for seconds.
        return Bounded("grids that are being drawn", at_once=1)

    @cached_property
    def archives(self) -> Places:
        # Each has four pictures in memory, and three threads.
        return Places("archives that are being sent", per_key=4, in_all=16)

    def _hindrance(self, model: str) -> str | None:
        hindered = what_hinders(FleetSeen(self.services), model)
        return None if hindered is None else hindered.sentence

    @property
    def schedules(self) -> Schedules:
        return Schedules(self.services.database)

    @property
    def links(self) -> SignedUrls:
        return SignedUrls(SigningSecrets(self.services.database), self.objects)

    # -- ownership -------------------------------------------------------------------------------------------------

    def render(self, caller: Caller, render_id: str) -> RenderView:
        """Return a render. Raises NotFound also for another owner's, so that its existence is not revealed."""
        return self.views.render(render_id, owner=caller.sees)

    def job(self, caller: Caller, job_id: str) -> JobView:
        """Return a job. Raises NotFound, also for another owner's, in the same words as of one that never was."""
        return self.views.job(job_id, owner=caller.sees)

    def file_of(self, job: JobView) -> bytes:
        """Return the picture of a job. Raises Refused (404) if there is none, or it is gone or damaged in the store."""
        if job.object is None:
            raise Refused(404, f"job {job.id} is {job.state} and has no picture", code=ProblemCode.NO_PICTURE)
        try:
            return picture_of(self.objects, job)
        except NotFound as error:
            raise Refused(404, str(error), code=ProblemCode.NO_PICTURE) from None

    @contextmanager
    def manifest(self, caller: Caller, file_id: str, *, delimiter: str | None = None) -> Iterator[Manifest]:
        """Copy an uploaded prompt file to this machine. Raises NotFound, also for another owner's."""
        file = self.files.file(caller.sees, file_id)
        with NamedTemporaryFile(prefix="farm-manifest-") as copy:
            self.uploads.copy(file.object, copy)
            kind = PurePath(file.name).suffix.lower().removeprefix(".")
            yield Manifest(path=Path(copy.name), kind=kind, shown=file.name, folder=Path(), delimiter=delimiter)


async def _context(request: Request) -> ApiContext:
    # A coroutine, though it awaits nothing: a plain function would take one more thread per request.
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(_context)]
