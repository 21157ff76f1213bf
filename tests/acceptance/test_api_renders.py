"""Renders over HTTP: accepted, read, cancelled, held, and refused with the field."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from tests.acceptance.api import Api, clients, finished
from tests.acceptance.command import Home
from tests.servers import eventually


@pytest.fixture(scope="module")
def home(api: Api) -> Home:
    return api.home


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
    for boss in clients(api, "boss", "--role", "admin"):
        assert boss.get(f"/v1/renders/{render}").status_code == 200


def test_a_cancel_ends_a_running_picture_and_leaves_its_batch_alone(ann: httpx.Client) -> None:
    asked = {"prompt": ["a", "b", "c"], "model": "slow", "seed": 5}
    undisturbed = finished(ann, ann.post("/v1/renders", json=asked).json()["id"])["id"]
    render = ann.post("/v1/renders", json=asked).json()["id"]
    jobs = f"/v1/renders/{render}/jobs"
    eventually(lambda: ann.get(jobs).json()["jobs"][0]["state"] == "running", "the batch is running")

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
    eventually(lambda: ann.get(jobs).json()["jobs"][0]["state"] == "running", "the batch is running")
    assert ann.delete(f"/v1/renders/{render}").json() == {"id": render, "state": "cancelled", "cancelled": 2}
    after = ann.post("/v1/renders", json={"prompt": "b", "model": "slow", "steps": 1}).json()["id"]
    assert finished(ann, after)["state"] == "done"


def test_a_caller_may_wait_a_little_for_the_end(ann: httpx.Client) -> None:
    done = ann.post("/v1/renders", json={"prompt": "a"}, headers={"Prefer": "respond-async, wait=30"})
    assert (done.status_code, done.json()["state"], done.headers["preference-applied"]) == (202, "done", "wait=30")
    slow = ann.post("/v1/renders", json={"prompt": "a", "model": "slow"}, headers={"Prefer": "wait=1"}).json()
    # A busy machine may not have begun with it in that second.
    assert slow["state"] in {"waiting", "running"}
    ann.delete(f"/v1/renders/{slow['id']}")


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


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, ""),
        (b"{", 400, ""),
        (b"\xff\xfe", 400, ""),
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


def test_a_render_is_held_and_released(ann: httpx.Client) -> None:
    made = ann.post("/v1/renders", json={"prompt": "a star", "model": "slow", "n": 40}).json()
    held = ann.post(f"/v1/renders/{made['id']}/hold").json()
    assert held["state"] == "held"
    waiting = ann.get(f"/v1/renders/{made['id']}/jobs", params={"state": "held"}).json()["jobs"]
    assert waiting
    assert ann.post(f"/v1/renders/{made['id']}/release").json()["state"] in {"waiting", "running"}
    assert not ann.get(f"/v1/renders/{made['id']}/jobs", params={"state": "held"}).json()["jobs"]
    assert ann.delete(f"/v1/renders/{made['id']}").status_code == 200
