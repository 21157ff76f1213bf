"""Everything that a chaos run starts: services, cables, machines, scheduler processes; and takes down again."""

import os
import signal
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import pytest
from sqlalchemy import text, update

from scheduler.services import Services, open_services
from storage.broker.tickets import Tickets
from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.database.tables import orphans
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests import poolers, servers
from tests.chaos.events import Events
from tests.chaos.ledger import Ledger
from tests.chaos.links import REST, SignedUrls, open_links
from tests.chaos.observer import Observer, Recoveries
from tests.chaos.plan import MACHINES, MODELS, SCHEDULERS, Plan
from tests.chaos.processes import Machine, StoredOrder, faketime, with_clock
from tests.chaos.slow_receiver import SlowReceiver, slow_receiver
from tests.mortal import MortalPostgres, MortalRedis
from tests.servers import S3Server, eventually, free_port

#: Reading the machine's certificates for each client takes longer than what it asks for.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


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
    api: StoredOrder
    receiver: SlowReceiver
    #: Opened as by the driver, through the cables that schedulers use.
    services: Services
    tickets: Tickets
    #: The store and the broker past every cable.
    objects: ObjectStore
    direct_tickets: Tickets
    observer: Observer
    recoveries: Recoveries
    ledger: Ledger = field(default_factory=Ledger)
    #: The id of the key that has a limit, as soon as there is one.
    limited_key: list[str] = field(default_factory=list)
    #: Set when faults and load should cease.
    calm: threading.Event = field(default_factory=threading.Event)
    #: Set when nobody should watch or restart anything any more.
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def home(self) -> str:
        return self.environment["FARM_HOME"]

    @property
    def kept(self) -> Sequence[StoredOrder]:
        return (*self.machines, *self.schedulers, self.api)

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
                # A process that another fault has frozen may hold a job for longer than the farm waits.
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
            yield

    def let_marks_run_out(self) -> None:
        """As if it were long ago that schedulers marked orphans: those that were killed will not remove them."""
        with closing(Database(self.database_url)) as database, database.write() as connection:
            connection.execute(update(orphans).where(orphans.c.marked_until.is_not(None)).values(marked_until=0))

    @property
    def api_address(self) -> str:
        return f"http://127.0.0.1:{self.api.module[-1]}"

    def api_answers(self) -> bool:
        try:
            return httpx.get(f"{self.api_address}/healthz", timeout=5, verify=NO_TLS).status_code == 200
        except httpx.HTTPError:
            return False

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
        pooler = _pooler(postgres, events, stack)
        links = stack.enter_context(
            open_links(
                redis=redis, s3_endpoint_url=s3.endpoint_url, postgres=postgres, pooler=pooler, rng=Random(plan.seed)
            )
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
        eventually(stage.api_answers, "the API answers")
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
        schedulers=[_scheduler(name, at_the_rest, folder, events, plan) for name in SCHEDULERS],
        api=_api(at_the_rest, folder, events, plan),
        receiver=stack.enter_context(slow_receiver(Random(plan.seed))),
        services=services,
        tickets=Tickets(settings),
        objects=open_objects(direct),
        direct_tickets=Tickets(direct),
        observer=observer,
        recoveries=Recoveries(observer, events),
    )


def _scheduler(name: str, environment: dict[str, str], folder: Path, events: Events, plan: Plan) -> StoredOrder:
    return StoredOrder(
        name=name,
        module=["scheduler.cli.main", "scheduler"],
        environment=environment,
        folder=folder,
        events=events,
        starter=plan.starter,
    )


def _api(environment: dict[str, str], folder: Path, events: Events, plan: Plan) -> StoredOrder:
    return StoredOrder(
        name="api",
        # The same port after each restart: its last word is also its address.
        module=["scheduler.cli.main", "api", "--port", str(free_port())],
        environment=environment,
        folder=folder,
        events=events,
        starter=plan.starter,
        # Uvicorn ends by the signal that asked it to; systemd takes that for a clean end, too.
        ends_with=(0, -signal.SIGTERM),
    )


def _pooler(postgres: MortalPostgres | None, events: Events, stack: ExitStack) -> int | None:
    """Start PgBouncer in transaction mode, where it is installed; the port on which it listens."""
    if postgres is None:
        return None
    if not poolers.is_installed():
        events.write("driver", "no PgBouncer", reason="it is not installed (Debian: apt-get install pgbouncer)")
        return None
    return stack.enter_context(poolers.pgbouncer(postgres.socket))


def _machine(name: str, folder: Path, environment: dict[str, str], events: Events, plan: Plan) -> Machine:
    lies = name in MACHINES[: plan.lying_clocks]
    # On SQLite the clocks of the machines *are* the database's clock.
    library = faketime() if lies and plan.database == "postgresql" else None
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
        starter=plan.starter,
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
