"""Webhooks of many: no receiver and no owner holds up the others, on both databases."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import pytest

from scheduler.background.webhook_delivery import WebhookDelivery
from scheduler.background.webhook_places import DeliveryPlaces
from scheduler.intake.addresses import pool
from storage.database.connection import Database
from storage.events.receivers import due_receivers
from storage.events.webhooks import DeliveryState, Webhooks, note_deliveries
from tests.receiver import Receiver, webhook_receiver
from tests.servers import eventually

#: Hundreds of messages are delivered.
pytestmark = pytest.mark.slow


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def attempts_outlast_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is held up is held up until the test lets it go, on a busy machine too.
    monkeypatch.setattr("scheduler.background.webhook_delivery._TIMEOUT_SECONDS", 600.0)
    monkeypatch.setattr("scheduler.background.webhook_delivery._SLOW_SECONDS", 600.0)


@contextmanager
def delivering(database: Database, places: DeliveryPlaces | None = None) -> Iterator[Callable[[], bool]]:
    """Deliver what is due in a thread; whether that is done. Whoever is held up must be let go before the end."""
    with pool(allow_private=True, seconds=600) as connections, ThreadPoolExecutor(1) as thread:
        deliverer = WebhookDelivery(
            webhooks=Webhooks(database), connections=connections, every_seconds=0.05, places=places or DeliveryPlaces()
        )
        under_way = thread.submit(deliverer.run_once)
        yield under_way.done
        under_way.result()


def note(database: Database, *messages: tuple[str, str]) -> None:
    """Write messages down, each for an owner and an address."""
    told: dict[str, Any] = {"render_id": "r", "kind": "job.done", "form": None, "api_url": None, "data": {}}
    with database.write() as connection:
        note_deliveries(
            connection,
            [told | {"owner": owner, "url": url} for owner, url in messages],
        )


class Quiet:
    """Receivers that take connections and never answer: until they are let go, silent or trickling."""

    def __init__(self, *, hosts: int = 1, trickling: bool = False) -> None:
        self._trickling = trickling
        self._servers = [socket.create_server((f"127.0.0.{n + 1}", 0)) for n in range(hosts)]
        self._free = threading.Event()
        self._held: list[threading.Thread] = []
        self._threads = [threading.Thread(target=self._take, args=(server,)) for server in self._servers]
        self.urls = [f"http://{name}:{port}/hook" for name, port in (one.getsockname() for one in self._servers)]
        for thread in self._threads:
            thread.start()

    @property
    def met(self) -> int:
        """How many connections were made."""
        return len(self._held)

    def _take(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            if self._free.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._hold, args=(connection,))
            self._held.append(thread)
            thread.start()

    def _hold(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: " if self._trickling else b"")
            while not self._free.wait(0.02 if self._trickling else None):
                connection.sendall(b"x")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections, and take no more. Idempotent."""
        if self._free.is_set():
            return
        self._free.set()
        for server in self._servers:
            # A listening socket that is closed does not wake whoever waits for a connection.
            socket.create_connection(server.getsockname()).close()
        for thread in (*self._threads, *self._held):
            thread.join()
        for server in self._servers:
            server.close()


@contextmanager
def unresolvable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A name of which the resolver says nothing before the end; the names that were asked for."""
    resolved, free, asked = socket.getaddrinfo, threading.Event(), []

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        if host != "never.example":
            return resolved(host, *rest, **more)
        asked.append(host)
        free.wait()
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        yield asked
    finally:
        free.set()


@pytest.mark.parametrize("kind", ["silent", "trickling", "unresolvable"])
def test_messages_of_others_arrive_while_one_receiver_answers_none_of_many(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with ExitStack() as held:
        if kind == "unresolvable":
            asked = held.enter_context(unresolvable(monkeypatch))
            url = "http://never.example/hook"
        else:
            dead = held.enter_context(Quiet(trickling=kind == "trickling"))
            url = dead.urls[0]
        # Hers were due before, and each has an address of its own.
        note(database, *(("ann", f"{url}?{n}") for n in range(64)))
        note(database, *[("bob", receiver.url)] * 64)
        with delivering(database) as done, held:
            eventually(lambda: len(receiver.got) == 64, "all of bob's are delivered")
            few = DeliveryPlaces().per_receiver
            eventually(lambda: few == (len(asked) if kind == "unresolvable" else dead.met), "a few of ann's are tried")
            assert not done()
    messages = Webhooks(database).all(limit=1000)
    became = Counter((one.owner, one.state) for one in messages)
    assert became == {("bob", DeliveryState.DELIVERED): 64, ("ann", DeliveryState.PENDING): 64}
    # Those that were let go were tried, one after another; on a slow machine the first ones are due again meanwhile.
    assert all(one.attempt >= 1 for one in messages)
    assert {one.attempt for one in messages if one.owner == "bob"} == {1}


def test_an_owner_of_many_receivers_that_answer_nothing_holds_up_no_other_owner(
    database: Database, receiver: Receiver
) -> None:
    # Twice as many as there are places, and due before.
    with Quiet(hosts=2 * DeliveryPlaces().total) as dead:
        note(database, *(("ann", url) for url in dead.urls))
        note(database, *[("bob", receiver.url)] * 64)
        with delivering(database), dead:
            eventually(lambda: len(receiver.got) == 64, "all of bob's are delivered")
            eventually(lambda: dead.met >= DeliveryPlaces().per_owner, "as many of ann's as may be are under way")
            assert dead.met == DeliveryPlaces().per_owner


def test_a_receiver_of_two_owners_that_answers_one_of_them_nothing_has_places_for_the_other(
    database: Database, receiver: Receiver
) -> None:
    with Quiet() as dead:
        note(database, *[("ann", dead.urls[0])] * 8, ("bob", dead.urls[0]), *[("bob", receiver.url)] * 8)
        with delivering(database), dead:
            eventually(lambda: dead.met == DeliveryPlaces().per_receiver + 1, "one of bob's is under way, too")
            eventually(lambda: len(receiver.got) == 8, "his others are delivered")


def test_as_many_messages_are_tried_at_once_as_there_are_places(database: Database) -> None:
    places = DeliveryPlaces()
    owners = places.total // places.per_receiver
    with Quiet() as dead:
        note(database, *((f"owner{n}", dead.urls[0]) for n in range(owners) for _ in range(places.per_receiver + 1)))
        with delivering(database), dead:
            eventually(lambda: dead.met == places.total, "each has a connection of its own")


def test_receivers_that_failed_are_tried_after_the_others_however_long_theirs_were_due(
    database: Database, receiver: Receiver
) -> None:
    # Whoever answers 500 is `localhost`, whoever answers 200 is 127.0.0.1.
    failing = receiver.url.replace("127.0.0.1", "localhost")
    receiver.answers = [(500, {}, b"")]
    note(database, ("ann", failing))
    one_by_one = DeliveryPlaces(total=1, per_owner=1, per_receiver=1, failing=1)
    with delivering(database, one_by_one):
        pass
    [told] = Webhooks(database).all()
    assert (told.state, told.answer) == (DeliveryState.PENDING, "500")
    note(database, *[("ann", failing)] * 3)
    note(database, *[("bob", receiver.url)] * 3)
    assert {one.owner: one.failing for one in due_receivers(database)} == {"ann": True, "bob": False}
    receiver.got.clear()
    with delivering(database, one_by_one):
        pass
    hosts = [headers["host"].partition(":")[0] for headers, _ in receiver.got]
    assert hosts == ["127.0.0.1"] * 3 + ["localhost"] * 3
    # It has answered: the next ones are as due as any.
    note(database, ("ann", failing), ("bob", receiver.url))
    assert {one.owner: one.failing for one in due_receivers(database)} == {"ann": False, "bob": False}


def test_a_receiver_that_takes_long_is_tried_after_the_others(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.background.webhook_delivery._SLOW_SECONDS", 0.0)
    note(database, ("ann", receiver.url))
    with delivering(database):
        pass
    assert {one.state for one in Webhooks(database).all()} == {DeliveryState.DELIVERED}
    note(database, ("ann", receiver.url))
    assert [one.failing for one in due_receivers(database)] == [True]


def test_once_asked_to_stop_it_takes_no_more(database: Database, receiver: Receiver) -> None:
    note(database, *[("ann", receiver.url)] * 3)
    stopping = threading.Event()
    stopping.set()
    with pool(allow_private=True) as connections:
        deliverer = WebhookDelivery(webhooks=Webhooks(database), connections=connections, every_seconds=1)
        assert deliverer.run_once(stopping) == 0
    assert {one.attempt for one in Webhooks(database).all()} == {0}


def test_others_are_looked_for_as_often_where_a_look_takes_long_as_where_it_does_not(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand receivers wait: a look after each message that is delivered held up everybody's for hours."""
    looks: list[float] = []

    def look(of: Database) -> Any:
        looks.append(time.monotonic())
        if len(looks) == 1:
            # As slow as that, as far as anybody can tell.
            monkeypatch.setattr("scheduler.background.due_looks._PAUSE", 1e9)
        return due_receivers(of)

    monkeypatch.setattr("scheduler.background.webhook_delivery.due_receivers", look)
    with Quiet() as silent:
        # Something is under way until the others are delivered.
        note(database, ("ann", silent.urls[0]), *[("bob", receiver.url)] * 64)
        with delivering(database), silent:
            eventually(lambda: len(receiver.got) == 64, "all of bob's are delivered")
            assert len(looks) == 1
