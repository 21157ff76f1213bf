"""What the commands stand on, opened from the settings when it is first asked for.

The imports are within: a command that prints a status must not wait for boto3, Celery or the model registry.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from storage.errors import BadSettings, NotFound
from storage.settings import Settings

if TYPE_CHECKING:
    from storage.access.uploads import Uploads
    from storage.broker.tickets import Tickets
    from storage.database.connection import Database
    from storage.fleet.workers import Workers
    from storage.jobs.jobs import Jobs
    from storage.objects.store import ObjectStore
    from storage.renders.measures import Measures
    from storage.renders.views import JobView, RenderView, Views
    from storage.spec.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Services:
    """The farm's rows, objects and models."""

    settings: Settings
    database: "Database"

    @cached_property
    def registry(self) -> "Registry":
        """Raises BadSettings if the registry is not valid, or FARM_SERVE names a model that is not in it."""
        from storage.spec.registry import read_registry

        registry = read_registry(self.settings)
        self.check_served(registry)
        return registry

    def check_served(self, registry: "Registry") -> None:
        """Raise BadSettings if FARM_SERVE names a model that is not in a registry."""
        try:
            registry.aliases(self.settings.serve)
        except NotFound as error:
            raise BadSettings(f"FARM_SERVE={self.settings.serve}: {error}") from None

    @cached_property
    def objects(self) -> "ObjectStore":
        """Raises BadSettings if the address cannot be understood."""
        from storage.objects.store import open_objects

        return open_objects(self.settings)

    @cached_property
    def uploads(self) -> "Uploads":
        """Raises BadSettings as `objects`."""
        from storage.access.uploads import Uploads

        return Uploads(self.database, self.objects)

    @cached_property
    def jobs(self) -> "Jobs":
        from storage.jobs.jobs import Jobs

        return Jobs(self.database, self.settings.retry_policy)

    @cached_property
    def views(self) -> "Views":
        from storage.renders.views import Views

        return Views(self.database)

    def find_render(self, said: str) -> "RenderView":
        """Return the render that a command names: by id, by name, or `@` (`storage.renders.names`)."""
        from storage.renders.names import find_render

        return find_render(self.views, said, owner=self.settings.owner)

    def find_job(self, said: str) -> "JobView":
        """Return the job that a command names: by id, or of the last render, as in `@-000012`."""
        from storage.renders.names import find_job

        return find_job(self.views, said, owner=self.settings.owner)

    @cached_property
    def measures(self) -> "Measures":
        from storage.renders.measures import Measures

        return Measures(self.database)

    @cached_property
    def workers(self) -> "Workers":
        from storage.fleet.workers import Workers

        return Workers(self.database)

    def open_all(self) -> Self:
        """Open everything now: for processes with several threads, and where a wrong setting must not show up late.

        Raises BadSettings.
        """
        _ = self.registry, self.objects, self.uploads, self.jobs, self.views, self.measures, self.workers
        return self


def open_services(settings: Settings, *, in_memory: bool = False) -> Services:
    """Open the database; the embedded one is created or upgraded on the way. The rest is opened on first use.

    Args:
        in_memory: with an embedded database that is empty, and gone with this process.

    Raises BadSettings, DatabaseProblem, SchemaMismatch.
    """
    from storage.database import schema
    from storage.database.connection import Database

    if settings.database_url is None and not in_memory:
        make_home(settings)
    database = Database("sqlite://" if in_memory else settings.database)
    if settings.database_url is None:
        schema.upgrade(database)
    else:
        schema.check(database)
    services = Services(settings=settings, database=database)
    if settings.serve:
        # Only those who set it pay for the look; a typo in it is found by whatever command comes first.
        _ = services.registry
    return services


def open_tickets(settings: Settings, broker_url: str) -> "Tickets":
    """Open tickets over a broker that answers. Raises BrokerProblem."""
    from storage.broker.tickets import Tickets

    tickets = Tickets(settings.model_copy(update={"broker_url": broker_url}))
    tickets.check()
    return tickets


def make_home(settings: Settings) -> None:
    """Create FARM_HOME. Raises BadSettings if it cannot be created or written to."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        (settings.home / ".gitignore").write_text("*\n")
    except OSError as error:
        raise BadSettings(f"FARM_HOME={settings.home} cannot be written to: {error.strerror}") from None
