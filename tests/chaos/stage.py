"""Everything that a chaos run starts: services, cables, machines, scheduler processes; and takes down again."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text

from scheduler.services import Services, open_services
from storage.broker.tickets import Tickets
from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests import servers
from tests.chaos.events import Events
from tests.chaos.ledger import Ledger
from tests.chaos.links import REST, SignedUrls, open_links
from tests.chaos.observer import Observer, Recoveries
from tests.chaos.plan import MACHINES, MODELS, SCHEDULERS, Plan
from tests.chaos.processes import Machine, StoredOrder, faketime, with_clock
from tests.mortal import MortalPostgres, MortalRedis
from tests.servers import S3Server, eventually


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What faults and load play with."""

    plan: Plan
    folder: Path
    environment: dict[str, str]
    events: Events
    redis: MortalRedis
    postgres: MortalPostgres | None
    database_url: str
    links: SignedUrls
    machines: Sequence[Machine]
    schedulers: Sequence[StoredOrder]
    #: Opened as by the driver, through the cables that schedulers use.
    services: Services
    tickets: Tickets
    #: The store and the broker past every cable.
    objects: ObjectStore
    direct_tickets: Tickets
    observer: Observer
    recoveries: Recoveries
    ledger: Ledger = field(default_factory=Ledger)
    #: Set when faults and load should cease.
    calm: threading.Event = field(default_factory=threading.Event)
    #: Set when nobody should watch or restart anything any more.
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def home(self) -> str:
        return self.environment["FARM_HOME"]

    @property
    def kept(self) -> Sequence[StoredOrder]:
        return (*self.machines, *self.schedulers)

    def tend(self) -> None:
        """Restart what ended, until it is over."""
        while not self.over.wait(0.2):
            for kept in self.kept:
                kept.tend()

    @contextmanager
    def locked_jobs(self) -> Iterator[None]:
        """Nobody can change a job meanwhile; reading goes on."""
        # On SQLite the transaction alone excludes every other writer.
        with closing(Database(self.database_url)) as database, database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
            yield

    def serving(self) -> bool:
        """Whether every machine has a device process."""
        return all(machine.device() is not None for machine in self.machines)


@contextmanager
def open_stage(plan: Plan, folder: Path) -> Iterator[Stage]:
    """All services up, every process started once; nothing of it left at the end."""
    with ExitStack() as stack:
        surroundings = stack.enter_context(pytest.MonkeyPatch.context())
        _leave_out_what_is_outside(surroundings)
        events = stack.enter_context(closing(Events(folder / "events.jsonl")))
        redis = stack.enter_context(closing(MortalRedis(folder)))
        postgres = None
        if plan.database == "postgresql":
            server = stack.enter_context(servers.postgres_server())
            postgres = stack.enter_context(closing(MortalPostgres(server, folder)))
        s3 = stack.enter_context(servers.moto_server(folder))
        rng = Random(plan.seed)
        links = stack.enter_context(
            open_links(redis=redis, s3_endpoint_url=s3.endpoint_url, postgres=postgres, rng=rng)
        )
        environment = _environment(plan, folder, s3)
        for name, value in environment.items():
            surroundings.setenv(name, value)
        database_url = postgres.url if postgres else environment["FARM_DATABASE_URL"]
        with closing(Database(database_url)) as database:
            upgrade(database)
        stage = _set(plan, folder, environment, events, redis, postgres, database_url, links, s3, stack)
        for kept in stage.kept:
            stack.callback(kept.close)
            kept.tend()
        eventually(stage.serving, "every machine serves")
        yield stage


def _set(
    plan: Plan,
    folder: Path,
    environment: dict[str, str],
    events: Events,
    redis: MortalRedis,
    postgres: MortalPostgres | None,
    database_url: str,
    links: SignedUrls,
    s3: S3Server,
    stack: ExitStack,
) -> Stage:
    at_the_rest = environment | links.environment(REST, redis=redis, postgres=postgres)
    settings = _settings(at_the_rest)
    services = open_services(settings)
    stack.callback(services.database.close)
    direct = _settings(
        at_the_rest
        | {
            "FARM_BROKER_URL": redis.url,
            "FARM_DATABASE_URL": database_url,
            "FARM_S3_ENDPOINT_URL": s3.endpoint_url,
        }
    )
    observer = stack.enter_context(closing(Observer(database_url)))
    return Stage(
        plan=plan,
        folder=folder,
        environment=at_the_rest,
        events=events,
        redis=redis,
        postgres=postgres,
        database_url=database_url,
        links=links,
        machines=[
            _machine(name, folder, environment | links.environment(name, redis=redis, postgres=postgres), events, plan)
            for name in MACHINES
        ],
        schedulers=[
            StoredOrder(
                name=name,
                module=["scheduler.cli.main", "scheduler"],
                environment=at_the_rest,
                folder=folder,
                events=events,
            )
            for name in SCHEDULERS
        ],
        services=services,
        tickets=Tickets(settings),
        objects=open_objects(direct),
        direct_tickets=Tickets(direct),
        observer=observer,
        recoveries=Recoveries(observer, events),
    )


def _machine(name: str, folder: Path, environment: dict[str, str], events: Events, plan: Plan) -> Machine:
    # On SQLite the clocks of the machines *are* the database's clock.
    library = faketime() if plan.database == "postgresql" else None
    clock = folder / f"clock-{name}" if library else None
    return Machine(
        name=name,
        module=["worker.process.supervisor", "--simulated", "1"],
        environment={
            **environment,
            "FARM_WORKER_NAME": name,
            **(with_clock(library, clock) if library and clock else {}),
        },
        folder=folder,
        events=events,
        clock=clock,
    )


def _environment(plan: Plan, folder: Path, s3: S3Server) -> dict[str, str]:
    """What all have in common."""
    models = folder / "models.toml"
    models.write_text(MODELS)
    return {
        **s3.environment,
        **plan.environment(folder / "home", models),
        "FARM_OBJECTS_URL": f"s3://{s3.create_bucket()}/farm",
        **({"FARM_DATABASE_URL": f"sqlite:///{folder / 'farm.db'}"} if plan.database == "sqlite" else {}),
    }


def _settings(environment: dict[str, str]) -> Settings:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        return Settings()


def _leave_out_what_is_outside(surroundings: pytest.MonkeyPatch) -> None:
    """A developer's own farm and own AWS account."""
    for name in [name for name in os.environ if name.startswith(("FARM_", "AWS_"))]:
        surroundings.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        surroundings.setenv(name, os.devnull)
    surroundings.setenv("AWS_EC2_METADATA_DISABLED", "true")
