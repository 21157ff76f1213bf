"""Requests that miss what was meant: what each is told, in the words of what it sent."""

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffusion_farm import ApiProblem
from scheduler.api.access import Open
from storage.access.keys import Keys, Limits, Role
from storage.rules.faults import Fault
from storage.rules.states import Priority
from tests.contract.stage import Stage, png, running_stage
from tests.servers import eventually


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("requests") / "home") as stage:
        yield stage


JSON = "application/json"


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b'{"prompt": "a"}', None, 415, "the request has no Content-Type; its body is read as JSON only with Content"),
        (b'{"prompt": "a"}', "application/x-www-form-urlencoded", 415, "says Content-Type: application/x-www-form-url"),
        (b'{"prompt": "a"}', "text/plain; charset=utf-8", 415, "says Content-Type: text/plain; charset=utf-8"),
        (b'{"prompt": "a",}', JSON, 400, "the body is not valid JSON at line 1, character 16: "),
        (b'{"prompt": "a"\n "n": 2}', JSON, 400, "at line 2, character 2: Expecting ',' delimiter"),
        (b"{'prompt': 'a'}", JSON, 400, "at line 1, character 2: Expecting property name"),
        (b"", JSON, 422, "the request has no body; send a JSON object"),
        (b'{"prompt": "\xff"}', JSON, 400, "the body cannot be read as its Content-Type says; JSON must be UTF-8"),
        (b"[" * 20_000, JSON, 400, "the body cannot be read"),
        (b'["a star"]', JSON, 422, "the body must be an object with fields"),
        (b'"a star"', JSON, 422, "the body must be an object with fields"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_why(
    stage: Stage, content: bytes, kind: str | None, status: int, words: str
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    for path in ("/v1/renders", "/v1/images/generations", "/sdapi/v1/txt2img", "/v1/predictions", "/v1/schedules"):
        answer = stage.client().post(path, content=content, headers=headers)
        told = answer.json()
        detail = told["error"]["message"] if isinstance(told.get("error"), dict) else told["detail"]
        assert (path, answer.status_code) == (path, status), detail
        assert words in detail, path
        assert "pydantic" not in detail
        assert "Input should" not in detail


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"promt": "a"}, "promt", "unknown field; did you mean prompt"),
        ({"prompt": "a", "webhook": {"uri": "https://example.org"}}, "webhook.url", "missing"),
        ({"prompt": "a", "webhook": {"url": "https://e.org", "event": []}}, "webhook.event", "did you mean events?"),
        ({"prompt": "a", "webhook": "https://example.org"}, "webhook", "must be an object with fields"),
        ({"prompt": "a", "steps": 5, "num_inference_steps": 6}, "steps", "the same field as num_inference_steps"),
        ({"prompt": ["a", 5]}, "prompt.1", "must be a valid string (given: 5)"),
        ({"prompt": "a", "n": "two"}, "n", "must be a valid integer"),
        ({"prompt": "a", "n": 0}, "n", "must be greater than or equal to 1"),
        ({"prompt": "a", "dry_run": "perhaps"}, "dry_run", "must be true or false"),
        ({"prompt": "a", "priority": "soon"}, "priority", "must be 'interactive', 'normal' or 'bulk'"),
        ({"prompt": "a", "zip": ["seed"]}, "zip", "must be an object with fields"),
        ({"prompt": "a", "product": {"seed": []}}, "product.seed", "must have at least 1 item"),
        ({"prompt": "a", "model": "net", "control_images": ["map.png"]}, "control_images", "'map.png' is not a stored"),
        ({"prompt": "a", "model": "net", "control_images": ["sha256:12"]}, "control_images", "is not a stored input"),
        ({"prompt": "a", "model": "net", "control_images": ["a: b.png"]}, "control_images", "is not a stored input"),
        ({"prompt_embeds": "e.safetensors"}, "prompt_embeds", "'e.safetensors' is not a stored input"),
    ],
)
def test_a_wrong_field_is_named_and_told_what_it_should_be(
    stage: Stage, body: dict[str, Any], field: str, words: str
) -> None:
    answer = stage.client().post("/v1/renders", json=body)
    told = answer.json()
    assert (answer.status_code, told["errors"][0]["field"]) == (422, field), told
    assert words in told["errors"][0]["message"]
    scheduled = stage.client().post("/v1/schedules", json={"name": "s", "cron": "@daily", "render": body}).json()
    assert field in scheduled["errors"][0]["field"], scheduled


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Idempotency-Key": ""}, "Idempotency-Key: must have at least 1 character"),
        ({"Idempotency-Key": "x" * 300}, "Idempotency-Key: must have at most 255 characters"),
    ],
)
def test_a_wrong_header_is_named(stage: Stage, headers: dict[str, str], says: str) -> None:
    refused = stage.client().post("/v1/renders", json={"prompt": "a"}, headers=headers)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith(says)
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"


def _bulk(stage: Stage) -> str:
    stage.working.clear()
    made = stage.client().post("/v1/renders", json={"prompt": "a star", "priority": "bulk"})
    return str(made.json()["id"])


@pytest.mark.parametrize(
    ("change", "status", "priority"),
    [
        ({"json": {"priority": "interactive"}}, 200, Priority.INTERACTIVE),
        ({"params": {"priority": "normal"}}, 200, Priority.NORMAL),
        ({"json": {"priority": "normal"}, "params": {"priority": "normal"}}, 200, Priority.NORMAL),
        ({"json": {"priority": "normal"}, "params": {"priority": "interactive"}}, 422, Priority.BULK),
        ({"json": {"priority": "soon"}}, 422, Priority.BULK),
        ({"json": {"seed": 5}}, 422, Priority.BULK),
        ({"json": {"priority": "normal", "seed": 5}}, 422, Priority.BULK),
        ({"json": {}}, 422, Priority.BULK),
        ({}, 422, Priority.BULK),
    ],
)
def test_a_change_is_made_as_its_body_says_or_refused(
    stage: Stage, change: dict[str, Any], status: int, priority: Priority
) -> None:
    try:
        render = _bulk(stage)
        answer = stage.client().patch(f"/v1/renders/{render}", **change)
        assert (answer.status_code, stage.services.views.render(render).priority) == (status, priority), answer.text
        if status != 200:
            assert answer.json()["errors"][0]["field"] in ("priority", "seed")
    finally:
        stage.working.set()


def test_the_priority_of_what_does_not_wait_stays_and_that_is_said(stage: Stage) -> None:
    try:
        render = _bulk(stage)
        address = f"/v1/renders/{render}"
        stage.client().post(f"{address}/hold")
        assert stage.client().patch(address, json={"priority": "normal"}).json()["priority"] == "normal"
        stage.client().delete(address)
        refused = stage.client().patch(address, json={"priority": "interactive"})
        assert (refused.status_code, refused.json()["detail"]) == (
            409,
            f"render {render} is cancelled and no job of it waits; its priority stays",
        )
        assert stage.client().patch(address, json={"priority": "normal"}).status_code == 200
    finally:
        stage.working.set()


def test_a_dry_run_says_what_its_idempotency_key_would_get(stage: Stage) -> None:
    client, key = stage.client(), {"Idempotency-Key": "an order"}
    asked = {"prompt": "a star", "n": 2}

    def dry(body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        return client.post("/v1/renders", json={**body, "dry_run": True}, headers=headers)

    assert (dry(asked, key).status_code, dry(asked, key).json()["id"]) == (200, None)
    accepted = client.post("/v1/renders", json=asked, headers=key).json()["id"]
    assert dry(asked, key).json()["id"] == accepted
    assert dry(asked).json()["id"] is None
    other = {**asked, "n": 3}
    headers = {**key, "X-Request-ID": "the-same"}
    refused, submitted = dry(other, headers), client.post("/v1/renders", json=other, headers=headers)
    assert (refused.status_code, refused.json()) == (submitted.status_code, submitted.json())
    assert refused.status_code == 409
    assert accepted in refused.json()["detail"]


def test_the_client_does_not_pass_over_what_it_cannot_do(stage: Stage) -> None:
    before = [render.id for render in stage.services.views.renders(owner="ann")]
    with pytest.raises(ValueError, match="dry_run: a dry run makes no render"):
        stage.farm().submit("a star", dry_run=True)
    with pytest.raises(ApiProblem, match="Idempotency-Key: must have at least 1 character"):
        stage.farm().submit("a star", idempotency_key="")
    assert [render.id for render in stage.services.views.renders(owner="ann")] == before


def test_what_an_address_does_not_read_is_refused(stage: Stage) -> None:
    client = stage.client()
    render = client.post("/v1/renders", json={"prompt": "a star"}).json()["id"]
    for method, path, more, words in (
        ("GET", "/v1/renders?limt=5", {}, "limt: unknown parameter; did you mean limit?"),
        ("GET", f"/v1/renders/{render}/jobs?status=done", {}, "status: unknown parameter"),
        ("POST", f"/v1/renders/{render}/hold", {"json": {"seconds": 5}}, "takes no body"),
        ("POST", f"/v1/renders/{render}/retry", {"json": {"only": [1]}}, "takes no body"),
        ("POST", f"/v1/renders?priority={'bulk'}", {"json": {"prompt": "a"}}, "priority: unknown parameter"),
    ):
        answer = client.request(method, path, **more)
        assert answer.status_code == 422, path
        assert words in answer.json()["detail"]
    assert client.post(f"/v1/renders/{render}/hold", json={}).status_code == 200


def test_what_can_never_pass_a_quota_is_refused_for_good(stage: Stage) -> None:
    for limits, n, status in (
        ({"queued": 2}, 3, 403),
        ({"per_day": 2}, 3, 403),
        ({"queued": 0}, 1, 403),
        ({"per_minute": 0}, 1, 403),
        ({"queued": 5, "per_day": 3}, 4, 403),
        ({"per_day": 3}, 3, 202),
    ):
        key = stage.new_key("dora", **limits)
        answer = stage.client(key).post("/v1/renders", json={"prompt": "a star", "n": n})
        assert (limits, answer.status_code) == (limits, status)
        assert "Retry-After" not in answer.headers
    again = stage.client(key).post("/v1/renders", json={"prompt": "a star"})
    assert (again.status_code, again.headers["Retry-After"]) == (429, "3600")


def test_a_retry_that_exceeds_a_quota_is_refused_as_a_request_is(stage: Stage) -> None:
    key = stage.new_key("dora", queued=2)
    client, jobs = stage.client(key), stage.services.jobs
    stage.working.clear()
    try:
        failed = client.post("/v1/renders", json={"prompt": "a star", "n": 2}).json()["id"]
        taken = jobs.claim(model="tiny", worker="by hand", limit=8)
        assert taken is not None
        jobs.recover(taken.jobs, Fault.BAD_SPECIFICATION, "cannot be drawn")
        assert client.post("/v1/renders", json={"prompt": "a star"}).status_code == 202
        refused = client.post(f"/v1/renders/{failed}/retry")
    finally:
        stage.working.set()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "30")
    assert "this key may have 2 unfinished pictures and has 1" in refused.json()["detail"]


def test_what_a_key_uploads_counts_against_it_at_every_door(stage: Stage) -> None:
    key = stage.new_key("dora", uploads=2)
    client = stage.client(key)

    def upload(n: int) -> httpx.Response:
        return client.post("/v1/files", files={"file": ("lines.jsonl", f"line {n}")}, data={"purpose": "batch"})

    assert [upload(n).status_code for n in (1, 1)] == [201, 201]
    unit = {"image": base64.b64encode(png(8)).decode()}
    wanted = {"prompt": "a", "override_settings": {"sd_model_checkpoint": "net"}}
    drawn = {**wanted, "alwayson_scripts": {"controlnet": {"args": [unit]}}}
    assert client.post("/sdapi/v1/txt2img", json=drawn).status_code == 200
    refused = upload(2)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3600")
    assert "may keep 2 uploads and has 2" in refused.json()["detail"]
    # What is there already may be named again, and sent again.
    assert client.post("/sdapi/v1/txt2img", json=drawn).status_code == 200
    other = {**wanted, "alwayson_scripts": {"controlnet": {"args": [{"image": base64.b64encode(png(16)).decode()}]}}}
    assert client.post("/sdapi/v1/txt2img", json=other).status_code == 429
    schedule = {"name": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "render": {"prompt": "a"}}
    assert client.post("/v1/schedules", json=schedule).status_code == 429
    small = stage.client(stage.new_key("dora", upload_bytes=3))
    answer = small.post("/v1/files", files={"file": ("lines.jsonl", "more")}, data={"purpose": "batch"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (403, False)


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running_stage(tmp_path_factory.mktemp("keyless") / "home", keyed=False) as stage:
        yield stage.keyless()


def test_any_key_opens_a_farm_that_has_none_on_its_own_machine(keyless: httpx.Client) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer sk-anything"},
        {"Authorization": "Token r8_anything"},
        {"X-API-Key": "anything"},
        {"Authorization": "Basic YW5uOnNlY3JldA=="},
        {"Authorization": f"Bearer farm_{'0' * 12}_{'x' * 43}"},
    ):
        assert keyless.get("/v1/renders", headers=headers).status_code == 200, headers
    strange = {"Authorization": "Bearer sk-anything", "Origin": "https://example.org"}
    assert keyless.get("/v1/renders", headers=strange).status_code == 403
    elsewhere = {"Authorization": "Bearer sk-anything", "Host": "farm.example.org"}
    assert keyless.get("/v1/renders", headers=elsewhere).status_code == 403


@pytest.mark.parametrize(
    "header", ["Forwarded", "Via", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "True-Client-IP", "CF-Ray"]
)
def test_who_comes_through_a_proxy_is_not_on_this_machine(keyless: httpx.Client, header: str) -> None:
    answer = keyless.get("/v1/renders", headers={header: "127.0.0.1"})
    assert answer.status_code == 401
    assert f"came through a proxy (it has the header {header.lower()})" in answer.json()["detail"]


def test_a_proxy_that_adds_no_header_is_known_by_its_http(keyless: httpx.Client) -> None:
    url = keyless.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(f"GET /v1/renders HTTP/1.0\r\nHost: {url.host}:{url.port}\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode()
    assert answer.partition("\r\n")[0].endswith("401 Unauthorized")
    assert "of HTTP/1.0, as proxies send it: an API key is required" in answer


@pytest.mark.parametrize(
    ("without_keys", "status"), [(Open.TO_EVERYBODY, 200), (Open.TO_THIS_MACHINE, 403), (Open.TO_NOBODY, 401)]
)
def test_who_is_let_in_without_a_key(tmp_path: Path, without_keys: Open, status: int) -> None:
    with running_stage(tmp_path / "home", keyed=False, without_keys=without_keys) as stage:
        anybody, address = stage.keyless(), "/v1/renders"
        elsewhere = {"Host": "farm.example.org"}
        assert anybody.get(address, headers=elsewhere).status_code == status
        strange = elsewhere | {"Origin": "https://example.org"}
        assert anybody.get(address, headers=strange).status_code == (401 if status == 401 else 403)
        stage.new_key()
        eventually(lambda: anybody.get(address, headers=elsewhere).status_code == 401, "the first key closes it")


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_when_its_last_key_ends_a_farm_is_closed_and_not_open(tmp_path: Path, end: str) -> None:
    with running_stage(tmp_path / "home", keyed=False) as stage:
        ring = Keys(stage.services.database)
        key, secret = ring.create(
            name="a", owner="a", role=Role.ADMIN, limits=Limits(), seconds=0 if end == "expired" else None
        )
        if end == "revoked":
            ring.revoke(key.id)
        for headers in ({}, {"X-API-Key": secret}, {"X-API-Key": "anything"}):
            assert stage.keyless().get("/v1/renders", headers=headers).status_code == 401, headers


def test_once_a_key_is_made_no_other_one_opens(stage: Stage) -> None:
    wrong = {"Authorization": "Bearer sk-anything"}
    assert stage.keyless().get("/v1/renders", headers=wrong).status_code == 401
