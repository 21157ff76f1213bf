"""Files, manifests and schedules over HTTP."""

import io
import json
import re
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from diffusion_farm import Farm
from tests.acceptance.api import Api, finished
from tests.acceptance.command import Home


@pytest.fixture(scope="module")
def home(api: Api) -> Home:
    return api.home


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
    connection = HTTPConnection(str(address.hostname), address.port, timeout=60)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("X-API-Key", api.key("greedy"))
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()

    answer = connection.getresponse()

    assert (answer.status, answer.read()[:1]) == (413, b"{")
    assert api.home.rows("SELECT count(*) FROM api_files") == kept
    connection.close()


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
            assert "upload its file first" in refused.text, (path, render)


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
    assert "rows.xlsx: not a prompt file; expected .txt" in refused.json()["detail"]
