"""Webhooks to a real receiver, on both databases."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update
from standardwebhooks import Webhook as StandardWebhook

from scheduler.background.webhook_delivery import WebhookDelivery, signed
from scheduler.intake.addresses import pool
from scheduler.results.webhook_payloads import payloads_over
from storage.database.connection import Database
from storage.database.tables import renders
from storage.database.webhook_tables import deliveries
from storage.errors import NotFound
from storage.events.log import EventKind
from storage.events.webhooks import PREDICTION, RETRY_SECONDS, Delivery, DeliveryState, Webhooks
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission, Webhook
from storage.objects.folder import LocalObjects
from storage.rules.states import Priority
from tests.contract.renders import at_once, claim, complete, pictures
from tests.receiver import Receiver, webhook_receiver
from tests.servers import eventually


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def deliverer(database: Database) -> Iterator[WebhookDelivery]:
    with pool(allow_private=True) as connections:
        yield WebhookDelivery(webhooks=Webhooks(database), connections=connections, every_seconds=1)


def render(farm: Jobs, url: str, *events: EventKind, n: int = 1) -> str:
    """A render of `ann` that is done, with a webhook."""
    webhook = Webhook(url=url, events=events or (EventKind.RENDER_FINISHED,))
    submission = Submission(owner="ann", priority=Priority.NORMAL, watched=True, webhook=webhook)
    render_id = farm.submit(pictures(n), submission, quanta={"tiny": 8})
    complete(farm, claim(farm))
    return render_id


def only(database: Database) -> Delivery:
    [delivery] = Webhooks(database).all()
    return delivery


def in_time(database: Database) -> float:
    """Seconds until the only message is tried again."""
    return only(database).next_at - time.time()


def now_due(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(deliveries).values(next_at=0))


def test_a_message_is_what_the_public_library_verifies(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    render_id = render(farm, receiver.url, n=2)
    assert deliverer.run_once() == 1
    [(headers, body)] = receiver.got
    told = StandardWebhook(Webhooks(database).secret("ann")).verify(body, headers)
    assert (told["type"], told["data"]["id"], told["data"]["done"]) == ("render.finished", render_id, 2)
    assert only(database).state is DeliveryState.DELIVERED
    assert deliverer.run_once() == 0


def test_the_signature_is_that_of_the_specifications_example() -> None:
    example = Delivery(
        id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        body='{"test": 2432232314}',
        render_id="r",
        owner="ann",
        url="",
        kind="",
        state=DeliveryState.PENDING,
        attempt=1,
        next_at=0,
        answer=None,
        created_at=0,
        delivered_at=None,
        receiver="",
    )
    found = signed(example, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", now=1614265330)
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_only_the_kinds_asked_for_are_told_each_with_an_id_of_its_own(
    farm: Jobs, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    render(farm, receiver.url, EventKind.JOB_DONE, EventKind.RENDER_FINISHED, n=3)
    assert deliverer.run_once() == 4
    kinds = sorted(json.loads(body)["type"] for _, body in receiver.got)
    assert kinds == ["job.done"] * 3 + ["render.finished"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 4


def test_a_prediction_starts_once_and_each_message_tells_how_it_stands(
    farm: Jobs, database: Database, tmp_path: Path, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    kinds = (EventKind.JOB_STARTED, EventKind.JOB_DONE, EventKind.RENDER_FINISHED)
    webhook = Webhook(url=receiver.url, events=kinds, form=PREDICTION, api_url="https://farm.example/")
    submission = Submission(owner="ann", priority=Priority.NORMAL, watched=True, webhook=webhook)
    render_id = farm.submit(pictures(3), submission, quanta={"tiny": 8})
    complete(farm, claim(farm))
    payload = payloads_over(database, LocalObjects(tmp_path)).body
    assert replace(deliverer, payload=payload).run_once() == 5  # its start, three pictures, its end
    bodies = [json.loads(body) for _, body in receiver.got]
    assert {(one["id"], one["status"], len(one["output"])) for one in bodies} == {(render_id, "succeeded", 3)}
    assert bodies[0]["urls"]["get"] == f"https://farm.example/v1/predictions/{render_id}"
    assert all(one.startswith(f"https://farm.example/v1/pictures/{render_id}-") for one in bodies[0]["output"])


def test_a_message_about_a_picture_that_is_gone_is_told_as_it_was_written(
    farm: Jobs, database: Database, tmp_path: Path, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    render_id = render(farm, receiver.url, EventKind.JOB_DONE, n=1)
    with database.write() as connection:
        connection.execute(update(renders).values(purging=True))
    assert replace(deliverer, payload=payloads_over(database, LocalObjects(tmp_path)).body).run_once() == 1
    [(_, body)] = receiver.got
    data = json.loads(body)["data"]
    assert (data["id"], "image_url" in data) == (f"{render_id}-000000", False)


def test_a_receiver_that_was_down_gets_it_once_under_the_same_id(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    receiver.answers = [(500, {}, b"not now"), (302, {"Location": "http://127.0.0.1:1/"}, b""), (503, {}, b"")]
    render(farm, receiver.url)
    for pause in RETRY_SECONDS[:3]:
        deliverer.run_once()
        assert in_time(database) == pytest.approx(1.05 * pause, abs=0.06 * pause + 3)
        assert deliverer.run_once() == 0
        now_due(database)
    deliverer.run_once()
    assert (only(database).state, only(database).attempt) == (DeliveryState.DELIVERED, 4)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 4


def test_nobody_there_is_tried_again_and_given_up_in_the_end(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    render(farm, "http://127.0.0.1:1/hook")
    for _ in range(len(RETRY_SECONDS) + 1):
        assert only(database).state is DeliveryState.PENDING
        now_due(database)
        deliverer.run_once()
    assert (only(database).state, only(database).answer) == (DeliveryState.FAILED, "ConnectError")
    Webhooks(database).replay(only(database).id)
    with database.write() as connection:
        connection.execute(update(deliveries).values(url=receiver.url))
    deliverer.run_once()
    assert only(database).state is DeliveryState.DELIVERED
    with pytest.raises(NotFound):
        Webhooks(database).replay("msg_nothing")


def test_a_receiver_may_ask_for_patience_and_may_be_gone(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    receiver.answers = [(429, {"Retry-After": "600"}, b""), (410, {}, b"")]
    render(farm, receiver.url)
    deliverer.run_once()
    assert in_time(database) == pytest.approx(630, abs=40)
    now_due(database)
    deliverer.run_once()
    assert only(database).state is DeliveryState.GONE
    assert deliverer.run_once() == 0


def test_an_answer_without_end_is_not_read_to_its_end(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    receiver.answers = [(200, {"Content-Length": str(2 * 2**30)}, b"x" * 1_000_000)]
    render(farm, receiver.url)
    deliverer.run_once()
    assert only(database).state is DeliveryState.DELIVERED


def test_a_receiver_that_trickles_its_answer_is_given_up(farm: Jobs, database: Database) -> None:
    """Each byte comes in time, the answer never does."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        given_up = threading.Event()

        def trickle() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while not given_up.wait(0.02):
                    connection.sendall(b"x")

        threads.submit(trickle)
        render(farm, f"http://127.0.0.1:{server.getsockname()[1]}/hook")
        with pool(allow_private=True, seconds=0.3) as connections:
            deliverer = WebhookDelivery(webhooks=Webhooks(database), connections=connections, every_seconds=1)
            delivering = threads.submit(deliverer.run_once)
            try:
                eventually(delivering.done, "it is given up")
            finally:
                given_up.set()
    assert (only(database).state, only(database).answer) == (DeliveryState.PENDING, "ReadTimeout")


def test_an_address_that_has_turned_inside_is_not_connected_to(
    farm: Jobs, database: Database, receiver: Receiver
) -> None:
    render(farm, receiver.url)
    with pool(allow_private=False) as connections:
        WebhookDelivery(webhooks=Webhooks(database), connections=connections, every_seconds=1).run_once()
    assert receiver.got == []
    assert only(database).state is DeliveryState.FAILED
    assert "not a public address" in str(only(database).answer)


def test_two_processes_send_a_message_once(farm: Jobs, database: Database, receiver: Receiver) -> None:
    for _ in range(4):
        render(farm, receiver.url)
    with pool(allow_private=True) as connections:
        several = [
            WebhookDelivery(webhooks=Webhooks(database), connections=connections, every_seconds=1).run_once
            for _ in range(4)
        ]
        assert sum(at_once(*several)) == 4
    assert len(receiver.got) == 4


@pytest.mark.parametrize("path", ["/é", "/a b?q=ü#f", "/%C3%A9"])
def test_a_receiver_is_met_at_an_address_of_any_characters(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery, path: str
) -> None:
    render(farm, receiver.url + path)
    deliverer.run_once()
    assert only(database).state is DeliveryState.DELIVERED


def test_a_message_that_nobody_can_make_holds_up_no_other(
    farm: Jobs, database: Database, receiver: Receiver, deliverer: WebhookDelivery
) -> None:
    def made(delivery: Delivery) -> str:
        if delivery.url.endswith("spoilt"):
            raise KeyError("nobody thought of that")
        return delivery.body

    render(farm, receiver.url + "/spoilt")
    render(farm, receiver.url)
    assert replace(deliverer, payload=made).run_once() == 2
    became = {one.url.removeprefix(receiver.url): (one.state, one.answer) for one in Webhooks(database).all()}
    assert became == {"": (DeliveryState.DELIVERED, "200"), "/spoilt": (DeliveryState.PENDING, "KeyError")}
