"""What the commands stand on, opened from the settings: database, objects, registry and, where needed, the broker."""

from dataclasses import dataclass

from storage.broker.tickets import Tickets
from storage.database import schema
from storage.database.connection import Database
from storage.errors import BadSettings, NotFound
from storage.fleet.workers import Workers
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.measures import Measures
from storage.renders.views import Views
from storage.settings import Settings
from storage.spec.registry import Registry, read_registry


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    registry: Registry
    database: Database
    objects: ObjectStore
    jobs: Jobs
    views: Views
    measures: Measures
    workers: Workers


def open_services(settings: Settings) -> Services:
    """Open what needs no broker. The embedded database is made or upgraded on the way.

    Raises BadSettings, DatabaseProblem, SchemaMismatch.
    """
    registry = read_registry(settings)
    try:
        registry.aliases(settings.serve)
    except NotFound as error:
        raise BadSettings(f"FARM_SERVE={settings.serve}: {error}") from None
    objects = open_objects(settings)
    if settings.database_url is None:
        make_home(settings)
    database = Database(settings.database)
    if settings.database_url is None:
        schema.upgrade(database)
    else:
        schema.check(database)
    return Services(
        settings=settings,
        registry=registry,
        database=database,
        objects=objects,
        jobs=Jobs(database, settings.retry_policy),
        views=Views(database),
        measures=Measures(database),
        workers=Workers(database),
    )


def open_tickets(settings: Settings, broker_url: str) -> Tickets:
    """Tickets over a broker that answers. Raises BrokerProblem."""
    tickets = Tickets(settings.model_copy(update={"broker_url": broker_url}))
    tickets.check()
    return tickets


def make_home(settings: Settings) -> None:
    """Raises BadSettings if FARM_HOME cannot be made or written to."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        (settings.home / ".gitignore").write_text("*\n")
    except OSError as error:
        raise BadSettings(f"FARM_HOME={settings.home} cannot be written to: {error.strerror}") from None
