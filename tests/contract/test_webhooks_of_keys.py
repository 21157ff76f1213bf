"""Webhooks of keys, schedules and predictions, and what they tell: names, labels, and where the picture is."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from replicate.client import Client as Replicate
from replicate.webhook import Webhooks as ReplicateWebhooks
from standardwebhooks import Webhook as StandardWebhook

from scheduler.background.webhook_delivery import WebhookDelivery
from scheduler.cli.agreement import disagreements
from scheduler.cli.main import cli
from scheduler.intake.addresses import pool
from scheduler.results.webhook_payloads import payloads_over
from storage.events.log import EventKind
from storage.events.webhooks import Webhooks
from tests.contract.stage import Stage, running_stage
from tests.receiver import Receiver, webhook_receiver
from tests.servers import eventually

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("hooks") / "home") as stage:
        yield stage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def client(stage: Stage) -> httpx.Client:
    """Of a key of its own."""
    return stage.client(stage.new_key(owner="hook"))


def delivered(stage: Stage, receiver: Receiver, render_id: str) -> list[Any]:
    """Deliver what is due of a finished render; the bodies, checked and in order."""
    eventually(lambda: stage.services.views.render(render_id).finished, "the render is finished")
    services = stage.services
    with pool(allow_private=True) as connections:
        WebhookDelivery(
            webhooks=Webhooks(services.database),
            connections=connections,
            every_seconds=1,
            payload=payloads_over(services.database, services.objects).body,
        ).run_once()
    secret = StandardWebhook(Webhooks(services.database).secret("hook"))
    return [secret.verify(body, headers) for headers, body in receiver.got]


def test_a_render_of_a_key_is_told_to_the_keys_webhook(stage: Stage, client: httpx.Client, receiver: Receiver) -> None:
    assert client.get("/v1/webhooks/key").json() == {"url": None, "events": []}
    body = {"url": receiver.url, "events": ["job.done", "render.finished"]}
    assert client.put("/v1/webhooks/key", json=body).json() == client.get("/v1/webhooks/key").json() == body
    asked = {"prompt": "a star", "custom_id": "mine", "labels": {"topic": "stars"}}
    made = client.post("/v1/renders", json=asked).json()["id"]

    told = sorted(delivered(stage, receiver, made), key=lambda one: one["data"]["seq"])
    assert [one["type"] for one in told] == ["job.done", "render.finished"]
    data = told[0]["data"]
    assert (data["id"], data["custom_id"], data["labels"]) == (f"{made}-000000", "mine", {"topic": "stars"})
    assert data["image_url"].startswith(f"{stage.address}/v1/pictures/")
    assert httpx.get(data["image_url"], timeout=60).content.startswith(PNG)
    assert "image_url" not in told[1]["data"]

    assert client.delete("/v1/webhooks/key").status_code == 204
    assert client.get("/v1/webhooks/key").json() == {"url": None, "events": []}
    receiver.got.clear()
    assert delivered(stage, receiver, client.post("/v1/renders", json=asked).json()["id"]) == []


def test_a_render_that_names_a_webhook_is_told_there_alone(
    stage: Stage, client: httpx.Client, receiver: Receiver
) -> None:
    client.put("/v1/webhooks/key", json={"url": "http://127.0.0.1:9/never", "events": ["render.finished"]})
    made = client.post("/v1/renders", json={"prompt": "a star", "webhook": {"url": receiver.url}}).json()["id"]
    assert [one["data"]["id"] for one in delivered(stage, receiver, made)] == [made]
    assert {one.url for one in Webhooks(stage.services.database).all(owner="hook") if one.render_id == made} == {
        receiver.url
    }


def test_every_door_tells_a_keys_webhook(stage: Stage, client: httpx.Client, receiver: Receiver) -> None:
    client.put("/v1/webhooks/key", json={"url": receiver.url})
    openai = client.post("/v1/images/generations", json={"prompt": "a star"}).json()["id"]
    client.post("/v1/schedules", json={"name": "told", "cron": "@yearly", "render": {"prompt": "a star"}})
    fired = client.post("/v1/schedules/told/run-now").json()["render_id"]
    delivered(stage, receiver, openai)
    told = delivered(stage, receiver, fired)
    assert {one["data"]["id"] for one in told} == {openai, fired}


def test_a_schedules_render_is_told_where_the_schedule_says_with_an_address_of_the_picture(
    stage: Stage, client: httpx.Client, receiver: Receiver
) -> None:
    render = {"prompt": "a star", "webhook": {"url": receiver.url, "events": ["job.done"]}}
    client.post("/v1/schedules", json={"name": "hooked", "cron": "@yearly", "render": render})
    [told] = delivered(stage, receiver, client.post("/v1/schedules/hooked/run-now").json()["render_id"])
    assert httpx.get(told["data"]["image_url"], timeout=60).content.startswith(PNG)


def test_a_webhook_is_a_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_stage(tmp_path_factory.mktemp("keyless") / "home", keyed=False) as stage:
        refused = stage.keyless().put("/v1/webhooks/key", json={"url": "https://example.com/hook"})
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


def test_replicates_webhooks_are_predictions_and_its_client_checks_them(stage: Stage, receiver: Receiver) -> None:
    key = stage.new_key(owner="hook")
    replicate = Replicate(base_url=stage.address, api_token=key)
    stage.held.callback(replicate._client.close)
    made = replicate.predictions.create(
        version="tiny", input={"prompt": "a star", "num_outputs": 3}, webhook=receiver.url
    )
    bodies = delivered(stage, receiver, made.id)
    assert len(bodies) == 5  # its start, three pictures, its end
    assert {body["id"] for body in bodies} == {made.id}
    last = bodies[-1]
    assert (last["status"], len(last["output"])) == ("succeeded", 3)
    assert httpx.get(last["output"][0], timeout=60).content.startswith(PNG)
    assert last["urls"]["get"] == f"{stage.address}/v1/predictions/{made.id}"
    secret = replicate.webhooks.default.secret()
    for headers, body in receiver.got:
        ReplicateWebhooks.validate(headers=headers, body=body.decode(), secret=secret)


def test_replicates_filter_is_kept_to(stage: Stage, client: httpx.Client, receiver: Receiver) -> None:
    body = {"version": "tiny", "input": {"prompt": "a star"}, "webhook": receiver.url}
    made = client.post("/v1/predictions", json={**body, "webhook_events_filter": ["completed", "logs"]}).json()
    assert made["remarks"] == ["webhook_events_filter: logs: ignored; not supported by the farm"]
    assert [one["status"] for one in delivered(stage, receiver, made["id"])] == ["succeeded"]
    for wrong in (["logs"], ["started"], []):
        refused = client.post("/v1/predictions", json={**body, "webhook_events_filter": wrong})
        assert (refused.status_code, "webhook_events_filter" in refused.json()["detail"]) == (422, True)
    private = client.post("/v1/predictions", json={**body, "webhook": "ftp://example.com"})
    assert (private.status_code, private.json()["errors"][0]["field"]) == (422, "webhook")


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/hook", "http://hooks.example.com/hook", "https://hooks.example.com:8080/hook"]
)
def test_a_local_receiver_is_refused_with_the_setting_that_allows_it(
    tmp_path_factory: pytest.TempPathFactory, url: str
) -> None:
    with running_stage(tmp_path_factory.mktemp("public") / "home", webhook_private=False) as stage:
        for path, body in (
            ("/v1/renders", {"prompt": "a star", "webhook": {"url": url}}),
            ("/v1/predictions", {"version": "tiny", "input": {"prompt": "a star"}, "webhook": url}),
        ):
            refused = stage.client().post(path, json=body)
            assert refused.status_code == 422
            assert "set FARM_WEBHOOK_PRIVATE=true for the API and the scheduler process" in refused.json()["detail"]
        refused = stage.client().put("/v1/webhooks/key", json={"url": url})
        assert "FARM_WEBHOOK_PRIVATE" in refused.json()["detail"]


def test_processes_say_where_their_settings_differ(stage: Stage) -> None:
    settings, database = stage.services.settings, stage.services.database
    other = settings.model_copy(update={"webhook_private": False})
    assert disagreements(database, settings, "scheduler") == []
    assert disagreements(database, settings, "api") == []
    [warning] = disagreements(database, other, "scheduler")
    assert "FARM_WEBHOOK_PRIVATE=false here, but the API was last started with true" in warning
    [warning] = disagreements(database, settings, "api")
    assert "but the scheduler process was last started with false" in warning
    assert disagreements(database, settings, "scheduler") == disagreements(database, settings, "api") == []


def test_the_document_describes_each_message(stage: Stage) -> None:
    document = stage.keyless().get("/openapi.json").json()
    assert document["webhooks"].keys() == {*EventKind, "prediction"}
    for told in document["webhooks"].values():
        assert told["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert {one["name"] for one in told["post"]["parameters"]} == {
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        }
    assert json.dumps(document["components"]["schemas"]["JobEventData"]).count("image_url")


def test_a_key_is_made_with_a_webhook(stage: Stage) -> None:
    def make(*words: str) -> Result:
        environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "hook"}
        return CliRunner().invoke(cli, ["keys", "create", "--name", "told", *words, "--json"], env=environment)

    for words, events in (((), ["render.finished"]), (("--webhook-event", "job.done"), ["job.done"])):
        made = make("--webhook", "https://example.com/hook", *words)
        client = stage.client(json.loads(made.stdout)["key"])
        assert client.get("/v1/webhooks/key").json() == {"url": "https://example.com/hook", "events": events}
    local = make("--webhook", "http://127.0.0.1/hook")
    assert "FARM_WEBHOOK_PRIVATE=true" in str(local.exception)
    assert "--webhook-event needs a --webhook" in make("--webhook-event", "job.done").output
