"""Events, progress and webhooks of renders over HTTP."""

from collections import Counter
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook as StandardWebhook

from diffusion_farm import Farm
from tests.acceptance.api import Api
from tests.acceptance.command import Home
from tests.receiver import webhook_receiver
from tests.servers import eventually


@pytest.fixture(scope="module")
def home(api: Api) -> Home:
    return api.home


def test_events_are_told_once_and_in_order_however_often_the_connection_is_cut(ann: httpx.Client, address: str) -> None:
    key = ann.headers["authorization"].removeprefix("Bearer ")
    with Farm(address, key=key) as farm:
        render = farm.submit("a", n=12, model="slow", steps=24)
        told: list[dict[str, Any]] = []
        while not told or told[-1]["kind"] != "render.finished":
            # Three events, and the line is cut; the next time it goes on after the last one.
            after = max((event["seq"] for event in told if "seq" in event), default=0)
            for event, _ in zip(farm.events(render, after=after), range(3), strict=False):
                told.append(event)
        whole = [event for event in farm.events(render) if "seq" in event]
    numbered = [event for event in told if "seq" in event]
    assert numbered == whole
    assert [event["seq"] for event in whole] == [*range(1, 26)]
    assert Counter(event["kind"] for event in whole) == {"job.started": 12, "job.done": 12, "render.finished": 1}
    shares = [share for event in told if event["kind"] == "progress" for share in event["jobs"].values()]
    assert any(0 < share < 1 for share in shares)
    assert ann.get(f"/v1/renders/{render.id}/events", headers={"Last-Event-ID": "25"}).status_code == 204


def test_a_webhook_tells_of_the_end_signed(ann: httpx.Client, home: Home) -> None:
    with webhook_receiver() as receiver:
        webhook = {"url": receiver.url, "events": ["job.done", "render.finished"]}
        render = ann.post("/v1/renders", json={"prompt": "a", "n": 2, "webhook": webhook}).json()["id"]
        eventually(lambda: len(receiver.got) == 3, "all three messages have come")
    secret = StandardWebhook(ann.get("/v1/webhooks/secret").json()["key"])
    told = [secret.verify(body, headers) for headers, body in receiver.got]
    assert Counter(one["type"] for one in told) == {"job.done": 2, "render.finished": 1}
    assert {one["data"].get("render", one["data"]["id"]) for one in told} == {render}
    listed = home.farm("webhooks", "list", "--owner", "ann", "--json").json
    assert {one["state"] for one in listed} == {"delivered"}
    assert home.farm("webhooks", "replay", listed[0]["id"]).out == f"{listed[0]['id']} will be sent again\n"
    assert "no webhook message" in home.farm("webhooks", "replay", "msg_x", code=2).complaint
    refused = ann.post("/v1/renders", json={"prompt": "a", "webhook": {"url": "file:///etc/passwd"}})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "webhook")


def test_events_of_a_render_of_the_command_line_are_not_written_down(ann: httpx.Client, home: Home) -> None:
    render = home.farm("render", "a", "--model", "quick", "--owner", "ann", "--json").json["id"]
    assert ann.get(f"/v1/renders/{render}").json()["state"] == "done"
    assert ann.get(f"/v1/renders/{render}/events").status_code == 409


def test_the_progress_of_a_running_picture_is_told(ann: httpx.Client) -> None:
    render = ann.post("/v1/renders", json={"prompt": "a", "model": "slow"}).json()["id"]

    def between() -> bool:
        job = ann.get(f"/v1/jobs/{render}-000000").json()
        return bool(job["state"] == "running" and 0 < job["progress"] < 1)

    eventually(between, "it is between start and end")
    ann.delete(f"/v1/renders/{render}")
