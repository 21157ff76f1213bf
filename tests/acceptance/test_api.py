"""`farm api` as its callers use it: a real server on a real farm."""

import io
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from standardwebhooks import Webhook as StandardWebhook

from diffusion_farm import Farm
from tests.acceptance.api import Api
from tests.acceptance.command import Home
from tests.receiver import webhook_receiver
from tests.servers import eventually


@pytest.fixture(scope="module")
def home(api: Api) -> Home:
    return api.home


@pytest.fixture(scope="module")
def address(api: Api) -> str:
    return api.address


@pytest.fixture(scope="module")
def ann(api: Api) -> Iterator[httpx.Client]:
    """Somebody with a key, on an API that is closed from then on."""
    yield from _client(api, "ann")


@pytest.fixture(scope="module")
def ben(api: Api) -> Iterator[httpx.Client]:
    yield from _client(api, "ben")


def _client(api: Api, owner: str, *options: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {api.key(owner, *options)}"}
    with httpx.Client(base_url=api.address, headers=headers, timeout=30) as client:
        yield client


def finished(client: httpx.Client, render_id: str) -> Any:
    def look() -> Any:
        found = client.get(f"/v1/renders/{render_id}").json()
        return found if found["done"] + found["failed"] + found["cancelled"] == found["total"] else None

    return eventually(look, f"render {render_id} is finished", timeout=60)


# -- before any key is made ------------------------------------------------------------------------------------


def test_without_keys_this_machine_is_let_in_and_no_strange_page_is(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        assert client.get("/v1/models").status_code == 200
        strange = client.get("/v1/models", headers={"Origin": "https://evil.example"})
        rebound = client.get("/v1/models", headers={"Host": "evil.example"})
    assert [strange.status_code, rebound.status_code] == [403, 403]
    assert "without keys" in strange.json()["detail"]


def test_on_other_addresses_it_does_not_start_without_keys(home: Home) -> None:
    refused = home.farm("api", "--host", "0.0.0.0", "--port", "0", code=2)
    assert "create a key" in refused.complaint


def test_health_and_metrics_need_no_key(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        assert client.get("/healthz").text == "ok\n"
        ready = client.get("/readyz")
        metrics = client.get("/metrics").text
        page = client.get("/docs").text
        needed = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert len(needed) >= 3
        for path in needed:
            assert client.get(path).is_success, f"{path}: the page needs no other server than the farm's"
    assert ready.json() == {"ready": True, "checks": dict.fromkeys(("database", "broker", "objects", "workers"), "ok")}
    assert 'farm_workers{model="quick"} 1.0' in metrics
    assert "# HELP farm_stage_seconds" in metrics
    assert 'farm_webhook_messages_last_day{state="failed"} 0.0' in metrics


# -- with keys -------------------------------------------------------------------------------------------------


def test_from_the_first_key_on_nobody_is_let_in_without(ann: httpx.Client, address: str) -> None:
    eventually(lambda: httpx.get(f"{address}/v1/models").status_code == 401, "the door is closed")
    wrong = httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer farm_nothing"})
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    assert ann.get("/v1/models").status_code == 200
    key = ann.headers["authorization"].removeprefix("Bearer ")
    assert httpx.get(f"{address}/v1/models", headers={"X-API-Key": key}).status_code == 200


def test_a_render_is_accepted_watched_and_fetched(ann: httpx.Client) -> None:
    accepted = ann.post("/v1/renders", json={"prompt": "a red star 😀", "n": 3, "seed": 5, "priority": "bulk"})
    assert accepted.status_code == 202
    render = accepted.json()
    assert accepted.headers["location"] == f"/v1/renders/{render['id']}"
    assert (render["owner"], render["priority"], render["seeds"]) == ("ann", "bulk", [5, 6, 7])
    assert finished(ann, render["id"])["state"] == "done"

    page = ann.get(f"/v1/renders/{render['id']}/jobs", params={"limit": 2}).json()
    rest = ann.get(f"/v1/renders/{render['id']}/jobs", params={"limit": 2, "after": page["next"]}).json()
    jobs = page["jobs"] + rest["jobs"]
    assert [(job["index"], job["seed"], job["progress"]) for job in jobs] == [(0, 5, 1.0), (1, 6, 1.0), (2, 7, 1.0)]
    assert rest["next"] is None
    job = ann.get(f"/v1/jobs/{jobs[1]['id']}").json()
    assert (job["spec"]["prompt"], job["made_with"]["kind"]) == ("a red star 😀", "simulated")
    image = ann.get(job["image"])
    assert image.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(image.content)) as picture:
        assert picture.size == (64, 64)


def test_the_same_request_from_fifty_threads_is_one_render(ann: httpx.Client) -> None:
    barrier = threading.Barrier(50)

    def ask(_: int) -> tuple[int, str, tuple[int, ...]]:
        barrier.wait()
        answer = ann.post("/v1/renders", json={"prompt": "a", "n": 3}, headers={"Idempotency-Key": "order 1"})
        return answer.status_code, answer.json()["id"], tuple(answer.json()["seeds"])

    with ThreadPoolExecutor(50) as threads:
        answers = set(threads.map(ask, range(50)))
    assert len(answers) == 1
    otherwise = ann.post("/v1/renders", json={"prompt": "b", "n": 3}, headers={"Idempotency-Key": "order 1"})
    assert otherwise.status_code == 409
    assert "order 1" in otherwise.json()["detail"]


def test_owners_see_cancel_and_fetch_only_their_own(ann: httpx.Client, ben: httpx.Client, api: Api) -> None:
    render = ann.post("/v1/renders", json={"prompt": "a"}).json()["id"]
    finished(ann, render)
    job = f"{render}-000000"
    for method, path in (
        ("GET", f"/v1/renders/{render}"),
        ("GET", f"/v1/renders/{render}/jobs"),
        ("DELETE", f"/v1/renders/{render}"),
        ("POST", f"/v1/renders/{render}/retry"),
        ("PATCH", f"/v1/renders/{render}?priority=bulk"),
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/image"),
        ("DELETE", f"/v1/jobs/{job}"),
    ):
        theirs = ben.request(method, path)
        nobodys = ben.request(method, path.replace(render, "000000000000"))
        assert (theirs.status_code, nobodys.status_code) == (404, 404), path
    assert render not in {one["id"] for one in ben.get("/v1/renders").json()["renders"]}
    for boss in _client(api, "boss", "--role", "admin"):
        assert boss.get(f"/v1/renders/{render}").status_code == 200


def test_a_key_to_read_may_not_submit(api: Api) -> None:
    for reader in _client(api, "ann", "--role", "read"):
        assert reader.get("/v1/renders").status_code == 200
        refused = reader.post("/v1/renders", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["title"]) == (403, "Not allowed")


def test_limits_are_answered_with_what_to_do(api: Api) -> None:
    options = ("--queued", "3", "--work", str(64 * 64 * 50))
    for client in _client(api, "cid", *options):
        much = client.post("/v1/renders", json={"prompt": "a", "n": 4})
        assert (much.status_code, much.headers["retry-after"]) == (429, "30")
        large = client.post("/v1/renders", json={"prompt": "a", "steps": 51})
        assert large.status_code == 403
        named = {"Idempotency-Key": "mine"}
        first = client.post("/v1/renders", json={"prompt": "a", "n": 3, "model": "slow"}, headers=named)
        # The same again asks for nothing more.
        again = client.post("/v1/renders", json={"prompt": "a", "n": 3, "model": "slow"}, headers=named)
        assert (first.status_code, again.status_code, again.json()["id"]) == (202, 202, first.json()["id"])
        client.delete(f"/v1/renders/{again.json()['id']}")


def test_a_revoked_key_is_let_in_no_more(home: Home, address: str) -> None:
    made = home.farm("keys", "create", "--name", "brief", "--json").json
    assert made["id"] in home.farm("keys", "list").out
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{address}/v1/renders", headers=headers).status_code == 200
    home.farm("keys", "revoke", made["id"])
    assert httpx.get(f"{address}/v1/renders", headers=headers).status_code == 401
    assert "no key with id" in home.farm("keys", "revoke", "nobody", code=2).complaint


def test_a_cancel_ends_a_running_picture_and_leaves_its_batch_alone(ann: httpx.Client) -> None:
    asked = {"prompt": ["a", "b", "c"], "model": "slow", "seed": 5}
    undisturbed = finished(ann, ann.post("/v1/renders", json=asked).json()["id"])["id"]
    render = ann.post("/v1/renders", json=asked).json()["id"]
    jobs = f"/v1/renders/{render}/jobs"
    eventually(lambda: ann.get(jobs).json()["jobs"][0]["state"] == "running", "the batch is running", timeout=20)

    cancelled = ann.delete(f"/v1/jobs/{render}-000000").json()
    again = ann.delete(f"/v1/jobs/{render}-000000").json()

    assert (cancelled["state"], cancelled["cancelled"], again["cancelled"]) == ("cancelled", 1, 0)
    end = finished(ann, render)
    assert (end["state"], end["done"], end["cancelled"]) == ("cancelled", 2, 1)
    assert [pixels(ann, f"{render}-{n:06d}") for n in (1, 2)] == [pixels(ann, f"{undisturbed}-{n:06d}") for n in (1, 2)]


def pixels(client: httpx.Client, job: str) -> bytes:
    """Files differ: they name the batch that they were made in."""
    return Image.open(io.BytesIO(client.get(f"/v1/jobs/{job}/image").content)).tobytes()


def test_a_cancelled_render_frees_the_device(ann: httpx.Client) -> None:
    render = ann.post("/v1/renders", json={"prompt": "a", "model": "slow", "n": 2}).json()["id"]
    jobs = f"/v1/renders/{render}/jobs"
    eventually(lambda: ann.get(jobs).json()["jobs"][0]["state"] == "running", "the batch is running", timeout=20)
    assert ann.delete(f"/v1/renders/{render}").json() == {"id": render, "state": "cancelled", "cancelled": 2}
    after = ann.post("/v1/renders", json={"prompt": "b", "model": "slow", "steps": 1}).json()["id"]
    assert finished(ann, after)["state"] == "done"


def test_a_caller_may_wait_a_little_for_the_end(ann: httpx.Client) -> None:
    done = ann.post("/v1/renders", json={"prompt": "a"}, headers={"Prefer": "respond-async, wait=30"})
    assert (done.status_code, done.json()["state"], done.headers["preference-applied"]) == (202, "done", "wait=30")
    slow = ann.post("/v1/renders", json={"prompt": "a", "model": "slow"}, headers={"Prefer": "wait=1"}).json()
    assert slow["state"] == "running"
    ann.delete(f"/v1/renders/{slow['id']}")


def test_events_are_told_once_and_in_order_however_often_the_connection_is_cut(ann: httpx.Client, address: str) -> None:
    key = ann.headers["authorization"].removeprefix("Bearer ")
    with Farm(address, key=key) as farm:
        render = farm.submit("a", n=12, model="slow", steps=8)
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
        eventually(lambda: len(receiver.got) == 3, "all three messages have come", timeout=20)
    secret = StandardWebhook(ann.get("/v1/webhooks/secret").json()["key"])
    told = [secret.verify(body, headers) for headers, body in receiver.got]
    assert Counter(one["type"] for one in told) == {"job.done": 2, "render.finished": 1}
    assert {one["data"].get("render", one["data"]["id"]) for one in told} == {render}
    listed = home.farm("webhooks", "list", "--owner", "ann", "--json").json
    assert {one["state"] for one in listed} == {"delivered"}
    assert home.farm("webhooks", "replay", listed[0]["id"]).out == f"{listed[0]['id']} is sent again\n"
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

    eventually(between, "it is between start and end", timeout=20)
    ann.delete(f"/v1/renders/{render}")


def test_priorities_of_what_waits_may_be_changed(ann: httpx.Client) -> None:
    render = ann.post("/v1/renders", json={"prompt": "a", "model": "slow", "n": 12, "priority": "bulk"}).json()["id"]
    changed = ann.patch(f"/v1/renders/{render}", params={"priority": "interactive"}).json()
    assert changed["priority"] == "interactive"
    ann.delete(f"/v1/renders/{render}")
    assert ann.post(f"/v1/renders/{render}/retry").json() == {"id": render, "retried": 0}


def test_a_dry_run_counts_and_accepts_nothing(ann: httpx.Client) -> None:
    before = ann.get("/v1/renders").json()
    told = ann.post("/v1/renders", json={"product": {"prompt": ["a", "b"], "steps": [1, 2]}, "n": 5, "dry_run": True})
    assert (told.status_code, told.json()["total"], told.json()["models"]) == (200, 20, ["quick"])
    assert ann.get("/v1/renders").json() == before


def test_conditioning_images_are_stored_and_what_is_none_is_refused(ann: httpx.Client) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    stored = [ann.post("/v1/files", files={"file": ("a.png", buffer.getvalue())}).json() for _ in range(2)]
    assert stored[0]["reference"] == stored[1]["reference"]
    assert stored[0]["reference"].startswith("sha256:")
    refused = ann.post("/v1/files", files={"file": ("../../a.png", b"no image")})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "file")
    missing = ann.post("/v1/renders", json={"prompt": "a", "control_images": ["sha256:" + "0" * 64]})
    assert missing.status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, "specification"),
        (b"{", 422, ""),
        (b"\xff\xfe", 422, ""),
        (b"[]", 422, ""),
        (b'{"prompt": 7}', 422, "prompt"),
        (b'{"prompt": "a", "model": "nothing"}', 422, "model"),
        (b'{"prompt": "a", "stepz": 7}', 422, "stepz"),
        (b'{"prompt": "a\\u0000"}', 422, "prompt"),
        (b'{"prompt": "\\ud800"}', 422, "prompt"),
        (b'{"prompt": "a", "seed": -1}', 422, "seed"),
        (b'{"prompt": "a", "guidance_scale": NaN}', 422, None),
        (b'{"prompt": "a", "width": 1e9}', 422, "width"),
        (b'{"prompt": "' + b"a" * 2_000_000 + b'"}', 422, "prompt"),
        (b'{"prompt": "' + b"a" * 17_000_000 + b'"}', 413, None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_request_is_answered_with_its_field(
    ann: httpx.Client, body: bytes, status: int, field: str | None
) -> None:
    answer = ann.post("/v1/renders", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert len(answer.content) < 2000
    if field:
        assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize(
    "path",
    [
        "/v1/renders/..%2f..%2fetc",
        "/v1/jobs/../../image",
        "/v1/jobs/x",
        "/v1/renders/%00",
        "/v1/renders?limit=0",
        "/v2",
    ],
)
def test_tricks_with_ids_end_at_the_door(ann: httpx.Client, path: str) -> None:
    answer = ann.get(path)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_no_secret_is_in_a_log(ann: httpx.Client, home: Home) -> None:
    secret = ann.headers["authorization"].removeprefix("Bearer ")
    said = [file.read_text(errors="replace") for file in home.folder.rglob("*.err")]
    said += [file.read_text(errors="replace") for file in (home.path / "logs").iterdir()]
    assert said
    assert not any(secret in text or secret.rpartition("_")[2] in text for text in said)
    assert not any("Traceback" in text for text in said)


# -- schedules, holding ----------------------------------------------------------------------------------------


def test_a_schedule_is_made_fired_and_removed_by_its_owner_alone(ann: httpx.Client, ben: httpx.Client) -> None:
    asked = {
        "name": "nightly",
        "cron": "0 2 * * *",
        "timezone": "Europe/Paris",
        "seeds": "same",
        "overlap": "queue",
        "render": {"prompt": ["a star", "a circle"], "model": "quick", "n": 2},
    }
    made = ann.post("/v1/schedules", json=asked)
    assert (made.status_code, made.json()["pictures"], made.json()["owner"]) == (201, 4, "ann")
    assert ann.post("/v1/schedules", json=asked).status_code == 422

    fired = [ann.post("/v1/schedules/nightly/run-now").json()["render_id"] for _ in range(2)]
    renders = [finished(ann, render_id) for render_id in fired]
    seeds = [[job["seed"] for job in ann.get(f"/v1/renders/{render_id}/jobs").json()["jobs"]] for render_id in fired]
    assert [render["done"] for render in renders] == [4, 4]
    assert seeds[0] == seeds[1]
    history = ann.get("/v1/schedules/nightly/history").json()
    assert [(one["outcome"], one["render_state"]) for one in history] == [("fired", "done")] * 2

    for method, path in [("GET", ""), ("GET", "/history"), ("POST", "/pause"), ("POST", "/run-now"), ("DELETE", "")]:
        assert ben.request(method, f"/v1/schedules/nightly{path}").status_code == 404
    assert ben.get("/v1/schedules").json() == []
    assert ann.post("/v1/schedules/nightly/pause").json()["next_at"] is None
    assert ann.post("/v1/schedules/nightly/resume").json()["next_at"] > 0
    assert ann.delete("/v1/schedules/nightly").status_code == 204
    assert ann.get("/v1/schedules/nightly").status_code == 404


def test_a_schedule_with_a_seed_renders_with_it_each_time(ann: httpx.Client) -> None:
    render = {"prompt": "a star", "model": "quick", "seed": 7}
    asked = {"name": "seeded", "cron": "@daily", "overlap": "queue", "render": render}
    assert ann.post("/v1/schedules", json=asked).json()["seeds"] == "same"
    renders = [ann.post("/v1/schedules/seeded/run-now").json()["render_id"] for _ in range(2)]
    assert [ann.get(f"/v1/renders/{one}/jobs").json()["jobs"][0]["seed"] for one in renders] == [7, 7]
    assert ann.delete("/v1/schedules/seeded").status_code == 204


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cron": "0 25 * * *"}, "cron: '0 25"),
        ({"timezone": "Mars/Base"}, "timezone: 'Mars/Base'"),
        ({"window": "1-6"}, "window: '1-6'"),
        ({"name": "../etc"}, "name"),
        ({"overlap": "perhaps"}, "overlap"),
        ({"render": {"prompt": "a", "steps": 0}}, "steps"),
        ({"render": {"prompt": "a", "model": "nope"}}, "nope"),
        ({"render": {"prompt": "a", "webhook": {"url": "ftp://here"}}}, "webhook"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused_with_the_field(
    ann: httpx.Client, change: dict[str, Any], says: str
) -> None:
    asked = {"name": "wrong", "cron": "@daily", "render": {"prompt": "a", "model": "quick"}} | change
    refused = ann.post("/v1/schedules", json=asked)
    assert refused.status_code == 422
    assert says in refused.text
    assert ann.get("/v1/schedules/wrong").status_code == 404


def test_a_render_is_held_and_released(ann: httpx.Client) -> None:
    made = ann.post("/v1/renders", json={"prompt": "a star", "model": "slow", "n": 40}).json()
    held = ann.post(f"/v1/renders/{made['id']}/hold").json()
    assert held["state"] == "held"
    waiting = ann.get(f"/v1/renders/{made['id']}/jobs", params={"state": "held"}).json()["jobs"]
    assert waiting
    assert ann.post(f"/v1/renders/{made['id']}/release").json()["state"] == "running"
    assert not ann.get(f"/v1/renders/{made['id']}/jobs", params={"state": "held"}).json()["jobs"]
    assert ann.delete(f"/v1/renders/{made['id']}").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the most memory that a process had")
def test_large_files_are_taken_in_and_read_with_little_memory(api: Api, tmp_path: Path) -> None:
    server = api.home.process("scheduler.cli.main api")
    assert server is not None
    most = Path(f"/proc/{server.pid}/status")
    lines = tmp_path / "lines.jsonl"
    with lines.open("wb") as file:
        file.writelines([b'{"prompt": "a"}' + b" " * 2**20 + b"\n"] * 120)
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the most so far is forgotten
    before = server.memory_info().rss

    with httpx.Client(base_url=api.address, headers={"X-API-Key": api.key("large")}, timeout=60) as client:
        with lines.open("rb") as file:
            sent = client.post("/v1/files", files={"file": file}, data={"purpose": "manifest"})
        read = client.get(f"/v1/files/{sent.json()['id']}/content")
        dry = client.post("/v1/renders", json={"manifest": sent.json()["id"], "model": "quick", "dry_run": True})

    assert (sent.status_code, read.content, dry.json()["total"]) == (201, lines.read_bytes(), 120)
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", most.read_text())
    assert int(peak) * 1024 - before < 40 * 2**20


def test_a_body_that_is_too_large_is_refused_before_it_is_sent_and_nothing_of_it_is_kept(api: Api) -> None:
    kept = api.home.rows("SELECT count(*) FROM api_files")
    address = urlsplit(api.address)
    connection = HTTPConnection(str(address.hostname), address.port, timeout=10)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("X-API-Key", api.key("greedy"))
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()

    answer = connection.getresponse()

    assert (answer.status, answer.read()[:1]) == (413, b"{")
    assert api.home.rows("SELECT count(*) FROM api_files") == kept
    connection.close()


# -- the store, and the page -----------------------------------------------------------------------------------


def test_callers_are_told_how_much_room_their_own_pictures_take_and_an_admin_of_all(
    ann: httpx.Client, ben: httpx.Client, api: Api
) -> None:
    made = finished(ann, ann.post("/v1/renders", json={"prompt": "a", "model": "quick", "n": 2}).json()["id"])
    stored = [ann.get(f"/v1/jobs/{made['id']}-{n:06d}").json()["bytes"] for n in range(2)]

    [anns] = ann.get("/v1/usage").json()
    bens = ben.get("/v1/usage").json()
    admins = httpx.get(f"{api.address}/v1/usage", headers={"X-API-Key": api.key("root", "--role", "admin")}).json()

    assert anns["owner"] == "ann"
    assert anns["pictures"] >= 2
    assert anns["bytes"] >= sum(stored)
    assert anns["oldest"] <= anns["newest"]
    assert {one["owner"] for one in bens} <= {"ben"}
    assert anns in admins


def test_the_page_says_what_everything_is(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]

    assert [one["operationId"] for one in operations if not one.get("description")] == []
    assert len({one["operationId"] for one in operations}) == len(operations)
    unsaid = [
        (one["operationId"], parameter["name"])
        for one in operations
        for parameter in one.get("parameters", [])
        if not parameter.get("description")
    ]
    assert unsaid == []
    assert [name for name in document["components"]["schemas"] if "__" in name] == []
    bodies = ["RenderBody", "ScheduleBody", "ImagesBody", "BatchBody", "TextToImage", "PredictionBody"]
    assert all(document["components"]["schemas"][name]["examples"] for name in bodies)


# -- manifests -------------------------------------------------------------------------------------------------


def uploaded(client: httpx.Client, name: str, text: str) -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, text.encode())}, data={"purpose": "manifest"})


def test_a_manifest_of_any_length_is_rendered_with_its_names_and_labels(ann: httpx.Client, ben: httpx.Client) -> None:
    rows = "".join(f'{{"prompt": "picture {n}", "custom_id": "row {n}", "topic": "t{n % 3}"}}\n' for n in range(1500))
    file = uploaded(ann, "rows.jsonl", rows).json()["id"]
    asked = {"manifest": file, "model": "quick", "steps": 1, "priority": "bulk"}

    dry = ann.post("/v1/renders", json=asked | {"dry_run": True})
    made = ann.post("/v1/renders", json=asked, headers={"Idempotency-Key": "manifest 1"})
    again = ann.post("/v1/renders", json=asked, headers={"Idempotency-Key": "manifest 1"})

    assert (dry.status_code, dry.json()["total"]) == (200, 1500)
    assert (made.status_code, made.json()["total"], len(made.json()["seeds"])) == (202, 1500, 1500)
    assert again.json()["id"] == made.json()["id"]
    assert ben.post("/v1/renders", json=asked).status_code == 404
    first = ann.get(f"/v1/renders/{made.json()['id']}/jobs", params={"limit": 2}).json()["jobs"]
    assert [(job["custom_id"], job["labels"]) for job in first] == [
        ("row 0", {"topic": "t0"}),
        ("row 1", {"topic": "t1"}),
    ]
    assert finished(ann, made.json()["id"])["done"] == 1500


def test_a_schedule_takes_a_manifest(ann: httpx.Client, ben: httpx.Client) -> None:
    rows = '{"prompt": "a star", "custom_id": "first", "topic": "stars"}\n{"prompt": "a circle", "steps": 2}\n'
    file = uploaded(ann, "tonight.jsonl", rows).json()["id"]
    render = {"manifest": file, "model": "quick", "seed": 70, "n": 2}
    asked = {"name": "rows", "cron": "@daily", "render": render}
    assert ben.post("/v1/schedules", json=asked).status_code == 404

    made = ann.post("/v1/schedules", json=asked).json()
    assert (made["pictures"], made["seeds"]) == (4, "same")
    render_id = ann.post("/v1/schedules/rows/run-now").json()["render_id"]
    jobs = ann.get(f"/v1/renders/{render_id}/jobs").json()["jobs"]
    assert [job["seed"] for job in jobs] == [70, 71, 72, 73]
    assert [job["custom_id"] for job in jobs] == ["first-0", "first-1", None, None]
    assert ann.delete("/v1/schedules/rows").status_code == 204


def test_files_of_the_server_cannot_be_named(ann: httpx.Client, tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    Image.new("RGB", (64, 64)).save(there)
    rows = json.dumps({"prompt": "a", "control_images": [str(there)]}) + "\n"
    stored = json.dumps({"prompt": "a", "control_images": [f"sha256:{'0' * 64}"]}) + "\n"
    for render in (
        {"prompt": "a", "control_images": [str(there)]},
        {"prompt_embeds": str(there)},
        {"prompt": "a", "product": {"control_images": [[str(there)]]}},
        {"manifest": uploaded(ann, "rows.jsonl", rows).json()["id"]},
        {"manifest": uploaded(ann, "stored.jsonl", stored).json()["id"], "control_images": [str(there)]},
    ):
        asked = render | {"model": "quick"}
        for path, body in (("renders", asked), ("schedules", {"name": "x", "cron": "@daily", "render": asked})):
            refused = ann.post(f"/v1/{path}", json=body)
            assert refused.status_code == 422, (path, render)
            assert "is not a stored input" in refused.text, (path, render)


def test_the_client_submits_manifests(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,topic\na star,x\na circle,y\n")
    with Farm(api.address, key=api.key("mia")) as farm:
        renders = [farm.submit_manifest(file, model="quick", n=2, idempotency_key="rows 1") for _ in range(2)]
        assert renders[0].id == renders[1].id
        assert farm.wait(renders[0]).done == 4
        assert [picture.prompt for picture in farm.images(renders[0])] == ["a star", "a star", "a circle", "a circle"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', "rows.jsonl line 2: prompt"),
        ("rows.jsonl", '{"prompt": "a", "model": "nope"}\n', "'nope'"),
        ("rows.csv", "text\na\n", "column named prompt"),
        ("rows.jsonl", '{"prompt": "a", "control_images": ["/etc/hostname"]}\n', "line 1: "),
        ("rows.jsonl", '{"prompt_embeds": "/etc/passwd"}\n', "line 1: "),
    ],
)
def test_a_manifest_with_a_bad_row_is_refused_whole(ann: httpx.Client, name: str, text: str, says: str) -> None:
    before = len(ann.get("/v1/renders", params={"limit": 1000}).json()["renders"])
    refused = ann.post("/v1/renders", json={"manifest": uploaded(ann, name, text).json()["id"], "model": "quick"})
    assert refused.status_code in (404, 422)
    assert says in refused.json()["detail"]
    assert len(ann.get("/v1/renders", params={"limit": 1000}).json()["renders"]) == before


def test_what_is_no_prompt_file_is_no_manifest(ann: httpx.Client) -> None:
    refused = uploaded(ann, "rows.xlsx", "PK")
    assert refused.status_code == 422
    assert "rows.xlsx: prompt files are .txt" in refused.json()["detail"]
