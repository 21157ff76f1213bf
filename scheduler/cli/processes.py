"""Run the farm's processes and prepare its database: `farm up`, `farm scheduler`, `farm db upgrade`."""

import logging
import signal
import threading
from typing import TYPE_CHECKING

import click

from scheduler.background.orphan_removal import OrphanRemoval
from scheduler.background.sweep import Sweep
from scheduler.background.unfinished_removal import UnfinishedRemoval
from scheduler.background.webhook_delivery import WebhookDelivery
from scheduler.cli.agreement import warn_of_other_settings
from scheduler.cli.output import json_option, print_json, say
from scheduler.cron.acceptors import Acceptors
from scheduler.cron.beat import start_schedules
from scheduler.intake.addresses import pool
from scheduler.local.home import RunningFarm
from scheduler.local.local_farm import LocalFarm
from scheduler.results.deletion import Deletion
from scheduler.results.webhook_payloads import payloads_over
from scheduler.services import Services, make_home, open_services, open_tickets
from storage.database import schema
from storage.database.connection import Database
from storage.errors import BadSettings, ServiceProblem
from storage.events.webhooks import Webhooks
from storage.fleet.fault_log import FaultLog
from storage.jobs.orphans import Orphans
from storage.process import lifeline
from storage.process.logs import configure_logging
from storage.process.service_loop import once_available
from storage.settings import Settings, read_settings, without_secrets
from storage.spec.registry_watch import watch_registry

if TYPE_CHECKING:
    from storage.broker.tickets import Tickets

log = logging.getLogger(__name__)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Also serve the page and the API on this port.")
@click.option("--until-unused", is_flag=True, hidden=True)
@json_option
def up(port: int | None, until_unused: bool, as_json: bool) -> None:
    """Run a whole farm on this machine until Ctrl-C.

    Starts a broker, the scheduler process and one worker per device. A service with an address set (FARM_BROKER_URL,
    FARM_DATABASE_URL, FARM_OBJECTS_URL) is used instead of a local one.
    """
    settings = read_settings()
    configure_logging(settings, "farm-up")
    if port is not None:
        # Loaded here: a farm without a page does without.
        from scheduler.cli.api import can_listen

        can_listen(port)

    in_a_browser = "`farm api` shows it in a browser" if port is None else f"http://127.0.0.1:{port} shows it"
    shown = f"run `farm render …` in another terminal; {in_a_browser}"

    def ready(farm: RunningFarm) -> None:
        if as_json:
            page = {} if port is None else {"page": f"http://127.0.0.1:{port}"}
            home = str(settings.home.absolute())
            print_json({"pid": farm.pid, "broker_url": farm.broker_url, "home": home, **page})
        else:
            say(
                f"the farm in {settings.home} is up: broker {without_secrets(farm.broker_url)}, "
                f"database {without_secrets(settings.database)}, objects {settings.objects}\n"
                f"{shown}; here, Ctrl-C stops it"
            )

    LocalFarm(settings, until_unused=until_unused, port=port).run(ready=ready)


@click.command()
@click.option("--stop-with-parent", is_flag=True, hidden=True)
def scheduler(stop_with_parent: bool) -> None:
    """Run the scheduler process.

    It requeues jobs with expired leases, tops up missing tickets, fires schedules and delivers webhooks. A farm needs
    one; more may run for redundancy.
    """
    settings = read_settings()
    configure_logging(settings, "scheduler")
    if settings.broker_url is None:
        raise BadSettings("FARM_BROKER_URL is not set; name a Redis server, or use `farm up`, which runs one")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if stop_with_parent:
        lifeline.stop_with_parent()
    failed = _stop_when_a_thread_fails(stopping)
    services, tickets = _opened(settings, stopping)
    watch_registry(settings, services.registry, stopping, check=services.check_served)
    warn_of_other_settings(services.database, settings, "scheduler")
    _start_housekeeping(services, stopping)
    acceptors = start_schedules(
        *(services, tickets),
        every_seconds=settings.sweep_seconds,
        renew_seconds=settings.renew_seconds,
        stopping=stopping,
    )
    Sweep(
        jobs=services.jobs,
        faults=FaultLog(services.database),
        tickets=tickets,
        registry=services.registry,
        every_seconds=settings.sweep_seconds,
        renew_seconds=settings.renew_seconds,
        lease_seconds=settings.lease_seconds,
    ).run(stopping)
    _close(acceptors)
    if failed.is_set():
        raise SystemExit(1)


def _opened(settings: Settings, stopping: threading.Event) -> "tuple[Services, Tickets]":
    """Open the services once they answer. Raises SystemExit if the process is to stop before."""

    def open_both() -> "tuple[Services, Tickets]":
        return open_services(settings).open_all(), open_tickets(settings, str(settings.broker_url))

    opened = once_available(open_both, doing="start the scheduler process", stopping=stopping)
    if opened is None:
        raise SystemExit(0)
    return opened


def _start_housekeeping(services: Services, stopping: threading.Event) -> None:
    """Start what needs no clock, each in a daemon thread: none waits for a store or a receiver of another."""
    settings = services.settings
    orphans = OrphanRemoval(
        orphans=Orphans(services.database, services.objects),
        delete_some=Deletion(services=services).purge.advance,
        every_seconds=settings.sweep_seconds,
    )
    deliverer = WebhookDelivery(
        webhooks=Webhooks(services.database),
        connections=pool(allow_private=settings.webhook_private),
        every_seconds=settings.sweep_seconds,
        payload=payloads_over(services.database, services.objects).body,
    )
    unfinished = UnfinishedRemoval(objects=services.objects)
    for name, run in (("orphans", orphans.run), ("webhooks", deliverer.run), ("unfinished", unfinished.run)):
        threading.Thread(target=run, args=(stopping,), name=name, daemon=True).start()


def _close(acceptors: Acceptors) -> None:
    try:
        acceptors.close()
    except ServiceProblem as error:
        log.warning("firings not given back, others take them when their leases run out", extra={"error": error})


def _stop_when_a_thread_fails(stopping: threading.Event) -> threading.Event:
    """Stop the process when one of its threads fails; the returned event is then set.

    A process that lives on without one of its threads would look healthy; one that exits is restarted.
    """
    failed = threading.Event()

    def stop(failure: threading.ExceptHookArgs) -> None:
        name = failure.thread.name if failure.thread else "unknown"
        log.critical("a thread failed, stopping", extra={"thread_name": name}, exc_info=failure.exc_value)
        failed.set()
        stopping.set()

    threading.excepthook = stop
    return failed


@click.group()
def db() -> None:
    """Manage the database schema."""


@db.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Create the tables, or migrate them to this version of the farm. Idempotent."""
    settings = read_settings()
    if settings.database_url is None:
        make_home(settings)
    before, after = schema.upgrade(Database(settings.database))
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        click.echo(f"{without_secrets(settings.database)} is already at version {after}")
    else:
        click.echo(f"{without_secrets(settings.database)} upgraded from {before or 'nothing'} to {after}")
