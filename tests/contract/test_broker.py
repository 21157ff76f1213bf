"""Tickets, on a real Redis-compatible server."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.transport.redis import Channel

from storage.broker.celery_app import make_celery
from storage.broker.queues import KEY_PREFIX, TURN_TASK, UNACKED_KEY, list_key, queue_name
from storage.broker.tickets import Tickets
from storage.errors import BadSettings, BrokerProblem
from storage.rules.states import Priority
from storage.settings import Settings
from tests.servers import free_port
from worker.process.redis_qos import ForgivingQoS


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = make_celery(Settings(broker_url=redis_url))
    yield app
    app.close()


@pytest.fixture
def tickets(redis_url: str, app: Celery) -> Tickets:
    return Tickets(Settings(broker_url=redis_url), app)


def test_published_tickets_wait_in_the_queue_of_their_model_and_priority(tickets: Tickets) -> None:
    tickets.publish("tiny", Priority.NORMAL)
    tickets.publish("tiny", Priority.BULK, 3)
    tickets.publish("other", Priority.INTERACTIVE, 2)
    assert tickets.queued("tiny") == {Priority.INTERACTIVE: 0, Priority.NORMAL: 1, Priority.BULK: 3}
    assert tickets.queued("other") == {Priority.INTERACTIVE: 2, Priority.NORMAL: 0, Priority.BULK: 0}
    assert tickets.queued("unknown") == dict.fromkeys(Priority, 0)


def test_publishing_no_ticket_publishes_none(tickets: Tickets) -> None:
    tickets.publish("tiny", Priority.NORMAL, 0)
    assert tickets.queued("tiny") == dict.fromkeys(Priority, 0)


def test_a_ticket_carries_nothing_but_its_model(tickets: Tickets, redis_url: str) -> None:
    tickets.publish("tiny", Priority.INTERACTIVE)
    with redis.Redis.from_url(redis_url) as client:
        [message] = client.lrange(f"farm:{queue_name('tiny')}", 0, -1)
    ticket = json.loads(message)
    assert ticket["content-type"] == "application/json"
    assert ticket["headers"]["task"] == TURN_TASK
    arguments, keywords, callbacks = json.loads(base64.b64decode(ticket["body"]))
    assert (arguments, keywords) == (["tiny"], {})
    assert not any(callbacks.values())


def test_every_key_in_redis_begins_with_the_farms_name(tickets: Tickets, redis_url: str) -> None:
    tickets.publish("tiny", Priority.NORMAL)
    with redis.Redis.from_url(redis_url) as client:
        assert all(key.startswith(b"farm:") for key in client.scan_iter())


def test_a_ticket_is_in_hand_from_its_delivery_to_its_acknowledgement(tickets: Tickets, app: Celery) -> None:
    tickets.publish("tiny", Priority.NORMAL, 2)
    assert tickets.in_hand() == 0
    with app.connection_for_read() as connection, connection.SimpleQueue(queue_name("tiny")) as queue:
        ticket = queue.get(timeout=60)
        assert tickets.in_hand() == 1
        assert tickets.queued("tiny")[Priority.NORMAL] == 1
        ticket.ack()
        assert tickets.in_hand() == 0


def test_a_ticket_whose_worker_vanished_waits_again(tickets: Tickets, app: Celery) -> None:
    tickets.publish("tiny", Priority.BULK)
    with app.connection_for_read() as connection, connection.SimpleQueue(queue_name("tiny")) as queue:
        queue.get(timeout=60)
        assert tickets.queued("tiny")[Priority.BULK] == 0
    assert tickets.queued("tiny")[Priority.BULK] == 1
    assert tickets.in_hand() == 0


def test_a_worker_takes_another_ticket_though_redis_did_not_answer_when_it_gave_the_last_one_back(
    tickets: Tickets, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> None:
        raise redis.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(Channel, "QoS", ForgivingQoS)
    tickets.publish("tiny", Priority.NORMAL, 3)
    with app.connection_for_read() as connection, connection.SimpleQueue(queue_name("tiny")) as queue:
        channel = queue.channel
        channel.basic_qos(0, 1, False)
        for give in (lambda ticket: ticket.ack(), lambda ticket: ticket.reject()):
            ticket = queue.get(timeout=60)
            assert not channel.qos.can_consume()
            with monkeypatch.context() as patched:
                patched.setattr(channel.qos, "_remove_from_indices", silent)
                with pytest.raises(redis.TimeoutError):
                    give(ticket)  # type: ignore[no-untyped-call]
            assert channel.qos.can_consume()
        # Redis keeps the two, to deliver them again.
        assert tickets.in_hand() == 2
        queue.get(timeout=60).ack()


def test_redis_is_asked_for_tickets_where_kombu_keeps_them(app: Celery) -> None:
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        assert f"{KEY_PREFIX}{channel.unacked_key}" == UNACKED_KEY
        for priority in Priority:
            assert list_key("tiny", priority) == f"{KEY_PREFIX}{channel._q_for_pri(queue_name('tiny'), priority)}"


def test_better_priorities_are_delivered_first(tickets: Tickets, app: Celery) -> None:
    for priority in reversed(Priority):
        tickets.publish("tiny", priority)
    with app.connection_for_read() as connection, connection.SimpleQueue(queue_name("tiny")) as queue:
        delivered = [queue.get(timeout=60) for _ in Priority]
        assert [ticket.properties["priority"] for ticket in delivered] == [*Priority]
        for ticket in delivered:
            ticket.ack()


def test_tickets_make_an_application_of_their_own_where_they_get_none(redis_url: str) -> None:
    tickets = Tickets(Settings(broker_url=redis_url, ticket_window=12))
    tickets.publish("tiny", Priority.NORMAL)
    assert (tickets.queued("tiny")[Priority.NORMAL], tickets.window) == (1, 12)


def test_a_broker_that_answers_passes_its_check_and_tells_what_it_evicts(tickets: Tickets) -> None:
    tickets.check()
    assert tickets.eviction_policy() == "noeviction"


def test_a_refused_password_is_told_with_the_remedy_and_without_the_password(redis_url: str) -> None:
    host = redis_url.partition("@")[2]
    tickets = Tickets(Settings(broker_url=f"redis://:wrong-secret@{host}"))
    for use in (tickets.check, tickets.in_hand, lambda: tickets.queued("tiny")):
        with pytest.raises(BrokerProblem, match=r"redis://:\*\*\*@.*password.*FARM_BROKER_URL") as problem:
            use()
        assert "wrong-secret" not in str(problem.value)


@pytest.fixture
def nobody() -> Tickets:
    """Tickets for a broker that is not there."""
    return Tickets(Settings(broker_url=f"redis://:secret@127.0.0.1:{free_port()}/0"))


@pytest.mark.parametrize("use", ["check", "in_hand", "queued", "publish", "eviction_policy"])
def test_a_broker_that_is_away_is_named_without_its_password(use: str, nobody: Tickets) -> None:
    calls = {
        "check": nobody.check,
        "in_hand": nobody.in_hand,
        "queued": lambda: nobody.queued("tiny"),
        "publish": lambda: nobody.publish("tiny", Priority.NORMAL),
        "eviction_policy": nobody.eviction_policy,
    }
    with pytest.raises(BrokerProblem, match=r"^broker redis://:\*\*\*@127\.0\.0\.1:\d+/0: ") as problem:
        calls[use]()
    assert "secret" not in str(problem.value)


@pytest.mark.parametrize("url", ["nonsense", "http://:secret@host", "redis://:secret@host:port/0"])
def test_an_address_of_no_broker_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadSettings, match="^FARM_BROKER_URL=") as refusal:
        Tickets(Settings(broker_url=url))
    assert "secret" not in str(refusal.value)


def test_a_farm_without_a_broker_says_how_to_get_one() -> None:
    with pytest.raises(BadSettings, match="FARM_BROKER_URL is not set"):
        make_celery(Settings())


def test_only_json_is_taken_from_the_wire(app: Celery) -> None:
    assert app.conf.accept_content == ["json"]
