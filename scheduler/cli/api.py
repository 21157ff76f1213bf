"""Commands for the HTTP API: `farm api` serves it, `farm keys` manages access, `farm webhooks` shows deliveries."""

import importlib.util
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.agreement import disagreements
from scheduler.cli.output import json_option, print_json, print_table, say, when
from scheduler.cli.param_types import Duration
from scheduler.cli.reading import services_to_find, services_to_read
from scheduler.cli.waiting import reachable_broker
from scheduler.intake.addresses import check_url
from scheduler.local import local_farm
from scheduler.local.home import Home
from scheduler.results.why import nobody_renders
from scheduler.services import Services, open_services, open_tickets
from storage.access.keys import Key, Keys, Limits, Role
from storage.errors import BadSettings
from storage.events.log import EventKind
from storage.events.webhooks import DeliveryState, Webhooks
from storage.process import lifeline
from storage.process.garbage import spare_what_is_loaded
from storage.process.logs import configure_logging
from storage.process.memory import return_freed_memory
from storage.process.service_loop import once_available
from storage.settings import read_settings
from storage.spec.registry_watch import watch_registry

if TYPE_CHECKING:
    import uvicorn

    from storage.broker.tickets import Tickets

log = logging.getLogger(__name__)

#: 1,200 requests that wait and as many streams (`scheduler.api.waiting.places`), and room for all else. Most systems
#: begin with 1,024.
_DESCRIPTORS = 4096
_NOT_INSTALLED = 'the HTTP API is not installed; run `pip install "diffusion-farm[api]"`'
_LOCAL = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--with-worker/--without-worker",
    default=None,
    help="Keep a whole farm running on this machine, as `farm render` does (default: where no address is set).",
)
@click.option("--open", "open_to_all", is_flag=True, help="Let everybody in until the first key is made.")
@click.option("--stop-with-parent", is_flag=True, hidden=True)
def api(host: str, port: int, with_worker: bool | None, open_to_all: bool, stop_with_parent: bool) -> None:
    """Serve the HTTP API, and the farm's page at its address.

    Where no address is set, a farm on this machine renders what is submitted, as long as the API runs: the one that is
    running, or one that this command starts.

    Its documentation is at /docs. On a local address no key is required until the first one is created
    (`farm keys create`); requests that come through a proxy require one all the same.
    """
    try:
        # Of the extra `api`: only this command needs it.
        import uvicorn

        from scheduler.api.access import Open
        from scheduler.api.app import make_api
        from scheduler.api.arriving import Connection
        from scheduler.api.context import ApiContext
        from scheduler.api.ready import make_front_page
    except ImportError:
        raise BadSettings(_NOT_INSTALLED) from None
    return_freed_memory()
    settings = read_settings()
    configure_logging(settings, "api")
    if stop_with_parent:
        lifeline.stop_with_parent()
    services = once_available(lambda: open_services(settings).open_all(), doing="start the API", stopping=Event())
    if services is None:
        return  # never: until it listens, a signal ends it
    local = host in _LOCAL
    keys_made = Keys(services.database).any_made()
    if open_to_all and keys_made:
        raise BadSettings("--open: keys were made (`farm keys list`), and so every caller needs one; leave out --open")
    if not (local or open_to_all or keys_made):
        raise BadSettings(
            f"--host {host}: anybody could use the API; create a key (`farm keys create`), or allow it with --open"
        )
    without_keys = Open.TO_EVERYBODY if open_to_all else Open.TO_THIS_MACHINE if local else Open.TO_NOBODY
    hold_connections()
    with listening(host, port) as listener, _farm(services, with_worker, starting=stop_with_parent) as tickets:
        context = ApiContext(services, tickets, with_worker=with_worker is not False)
        watch_registry(settings, services.registry, context.ending, check=services.check_served)
        app = make_api(context, without_keys=without_keys)
        make_front_page(app)
        for warning in disagreements(services.database, settings, "api"):
            say(warning)
        address = f"http://{host}:{listener.getsockname()[1]}"
        say(f"API listening on {address}, the page for a browser at /, documentation at /docs; Ctrl-C stops it")
        config = uvicorn.Config(app, http=Connection, ws="none", log_config=None, server_header=False)
        config.timeout_graceful_shutdown = 10
        _server(config, context.ending).run(sockets=[listener])


@contextmanager
def _farm(services: Services, with_worker: bool | None, *, starting: bool = False) -> "Iterator[Tickets | None]":
    """Yield the tickets of a farm: of one that is kept running on this machine, or of the one elsewhere.

    Args:
        starting: it is a part of `farm up`, whose workers are starting, too.

    Raises BadSettings, BrokerProblem, ServiceProblem.
    """
    settings = services.settings
    if with_worker and not settings.embedded:
        raise BadSettings("--with-worker: addresses are set, so workers are started elsewhere (`farm-worker`)")
    if settings.embedded and with_worker is not False:
        reachable_broker(services)  # what a farm needs is installed here
        with local_farm.use(settings, say=say) as broker_url:
            yield open_tickets(settings, broker_url)
        return
    if settings.embedded:
        running = Home(settings).running()
        tickets = None if running is None else open_tickets(settings, running.broker_url)
    else:
        tickets = once_available(partial(reachable_broker, services), doing="start the API", stopping=Event())
    if not starting and (nobody := nobody_renders(services)) is not None:
        log.warning("nothing renders what is submitted: %s", nobody)
    yield tickets


def _server(config: "uvicorn.Config", ending: Event) -> "uvicorn.Server":
    """Return a server that says so when it is asked to stop: else it would wait for requests that wait for renders."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            ending.set()
            super().handle_exit(sig, frame)

        async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
            spare_what_is_loaded()
            await super().startup(sockets)

    return Server(config)


def hold_connections() -> None:
    """Let this process hold as many connections as it has places for callers that wait, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < _DESCRIPTORS:
        say(f"this system allows {wanted} open files; for as many callers as the API lets wait, allow {_DESCRIPTORS}")


def can_listen(port: int) -> None:
    """Return if `farm api` can serve on a port of this machine. Raises BadSettings."""
    if importlib.util.find_spec("uvicorn") is None:
        raise BadSettings(_NOT_INSTALLED)
    listening("127.0.0.1", port).close()


def listening(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises BadSettings if the address cannot be listened on."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Said in full: only of TCP by name does asyncio send small pieces at once. Otherwise each answer, which is head
        # and body, waits 40 ms for the client's acknowledgement of its head.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            # From here on whoever connects is answered, if only in a moment.
            listener.listen(512)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise BadSettings(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from None
    return listener


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command()
@click.option("--name", required=True, help="What the key is for.")
@click.option("--owner", metavar="NAME", help="Owner whose renders it submits and sees (default: FARM_OWNER).")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default="submit",
    show_default=True,
    help="What it may do.",
)
@click.option(
    "--expires",
    "seconds",
    metavar="TIME",
    type=Duration(),
    help="Expire after this time, such as 90d (default: never).",
)
@click.option("--queued", type=click.IntRange(min=1), help="Maximum pictures in the queue at once.")
@click.option("--per-day", type=click.IntRange(min=1), help="Maximum pictures per 24 hours.")
@click.option("--per-minute", type=click.IntRange(min=1), help="Maximum submissions per minute.")
@click.option("--work", type=click.IntRange(min=1), help="Maximum pixels × steps of a picture.")
@click.option("--uploads", type=click.IntRange(min=1), help="Maximum uploads kept at once.")
@click.option("--upload-bytes", type=click.IntRange(min=1), help="Maximum bytes of uploads kept at once.")
@click.option("--webhook", metavar="URL", help="Send events of its renders there, signed, unless they name their own.")
@click.option(
    "--webhook-event",
    "events",
    multiple=True,
    type=click.Choice([kind.value for kind in EventKind]),
    help="Which events; repeatable (default: render.finished).",
)
@json_option
def create(
    name: str,
    owner: str | None,
    role: str,
    seconds: float | None,
    as_json: bool,
    **more: Any,
) -> None:
    """Create a key. It is shown only once."""
    settings = read_settings()
    webhook, events = more.pop("webhook"), more.pop("events")
    if webhook is not None:
        check_url(webhook, allow_private=settings.webhook_private)
    elif events:
        raise click.UsageError("--webhook-event needs a --webhook")
    keys_here = Keys(open_services(settings).database)
    key, secret = keys_here.create(
        name=name, owner=owner or settings.owner, role=Role(role), limits=Limits(**more), seconds=seconds
    )
    if webhook is not None:
        keys_here.set_webhook(key.id, webhook, events or (EventKind.RENDER_FINISHED,))
    if as_json:
        print_json({"id": key.id, "key": secret, "owner": key.owner, "role": key.role})
    else:
        click.echo(secret)
        say(f"created key {key.id} for {key.owner}, role {key.role}; store it now, it cannot be shown again")


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = Keys(services_to_read().database).all()
    if as_json:
        print_json([{**key.__dict__, "limits": key.limits.__dict__} for key in found])
    elif found:
        print_table(
            ["KEY", "NAME", "OWNER", "ROLE", "CREATED", "STATE"],
            ((key.id, key.name, key.owner, key.role, when(key.created_at), _state(key)) for key in found),
        )
    else:
        click.echo("no keys; create one with `farm keys create --name NAME`")


@keys.command()
@click.argument("key_id", metavar="KEY")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key. Idempotent."""
    Keys(services_to_find(key_id).database).revoke(key_id)
    print_json({"id": key_id, "revoked": True}) if as_json else click.echo(f"revoked key {key_id}")


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {when(key.revoked_at)}"
    return f"until {when(key.expires_at)}" if key.expires_at is not None else "valid"


@click.group()
def webhooks() -> None:
    """Inspect and resend webhook messages."""


@webhooks.command("list")
@click.option("--owner", metavar="NAME", help="Show only messages about this owner's renders.")
@click.option(
    "--state", type=click.Choice([state.value for state in DeliveryState]), help="Show only messages in this state."
)
@click.option("--latest", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many to show.")
@json_option
def list_webhooks(owner: str | None, state: str | None, latest: int, as_json: bool) -> None:
    """List the latest messages."""
    found = Webhooks(services_to_read().database).all(
        owner=owner, state=DeliveryState(state) if state else None, limit=latest
    )
    if as_json:
        print_json([delivery.__dict__ for delivery in found])
    elif found:
        print_table(
            ["MESSAGE", "EVENT", "RENDER", "OWNER", "STATE", "ATTEMPTS", "RESPONSE", "NEXT", "RECEIVER"],
            (
                (
                    *(one.id, one.kind, one.render_id, one.owner, one.state, one.attempt, one.answer),
                    when(one.next_at) if one.state is DeliveryState.PENDING else "",
                    one.url,
                )
                for one in found
            ),
        )
    else:
        click.echo("no webhook messages")


@webhooks.command()
@click.argument("message_id", metavar="MESSAGE")
@json_option
def replay(message_id: str, as_json: bool) -> None:
    """Send a message again, under the same id."""
    Webhooks(services_to_find(message_id).database).replay(message_id)
    print_json({"id": message_id, "state": "pending"}) if as_json else click.echo(f"{message_id} will be sent again")
