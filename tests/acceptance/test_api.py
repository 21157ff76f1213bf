"""`farm api`: who may use it, its limits, its health and its page."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest
from PIL import Image

from diffusion_farm import ApiProblem, Farm
from tests.acceptance.api import MODELS, Api, clients, finished
from tests.acceptance.command import Home, Running
from tests.client_only import EXTRAS, PARTS_OF_A_FARM, without
from tests.forks import Starter
from tests.servers import eventually


@pytest.fixture(scope="module")
def home(api: Api) -> Home:
    return api.home


def test_without_keys_this_machine_is_let_in_and_no_strange_page_is(address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/v1/models").status_code == 200
        strange = client.get("/v1/models", headers={"Origin": "https://evil.example"})
        rebound = client.get("/v1/models", headers={"Host": "evil.example"})
    assert [strange.status_code, rebound.status_code] == [403, 403]
    assert "without API keys" in strange.json()["detail"]


def test_on_other_addresses_it_does_not_start_without_keys(home: Home) -> None:
    refused = home.farm("api", "--host", "0.0.0.0", "--port", "0", code=2)
    assert "create a key" in refused.complaint


def test_the_client_renders_and_brings_the_pictures(address: str, tmp_path: Path) -> None:
    with Farm(address) as farm:
        render = farm.submit(["a red star", "a green circle"], n=2, seed=7)
        assert (render.total, render.seeds) == (4, [7, 8, 9, 10])
        pictures = list(farm.images(render))
        assert farm.wait(render, timeout=120).state == "done"
        assert farm.cancel(render) == 0
        with pytest.raises(ApiProblem, match="width: must be a multiple of 8") as refused:
            farm.submit("a", width=65)
    assert refused.value.status == 422
    assert sorted((one.index, one.seed, one.prompt) for one in pictures) == [
        (0, 7, "a red star"),
        (1, 8, "a red star"),
        (2, 9, "a green circle"),
        (3, 10, "a green circle"),
    ]
    with Image.open(pictures[0].save(tmp_path)) as picture:
        assert picture.size == (64, 64)


ALONE = """
import sys
from diffusion_farm import Farm
with Farm(sys.argv[1]) as farm:
    render = farm.submit("a red star", seed=7)
    [picture] = farm.images(render)
    assert farm.wait(render, progress=True).state == "done"
    print(picture.seed, picture.prompt, picture.data[1:4].decode())
"""


def test_the_client_renders_where_only_httpx_is_installed(address: str) -> None:
    command = [sys.executable, "-c", without((*EXTRAS, *PARTS_OF_A_FARM), ALONE), address]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], check=True, timeout=300, capture_output=True, text=True
    )
    assert ended.stdout == "7 a red star PNG\n"
    assert ended.stderr.endswith(": 1 of 1\n")


def test_health_and_metrics_need_no_key(address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as client:
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


def test_from_the_first_key_on_nobody_is_let_in_without(ann: httpx.Client, address: str) -> None:
    eventually(lambda: httpx.get(f"{address}/v1/models", timeout=60).status_code == 401, "the door is closed")
    wrong = httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer farm_nothing"}, timeout=60)
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    assert ann.get("/v1/models").status_code == 200
    key = ann.headers["authorization"].removeprefix("Bearer ")
    assert httpx.get(f"{address}/v1/models", headers={"X-API-Key": key}, timeout=60).status_code == 200


def test_a_key_to_read_may_not_submit(api: Api) -> None:
    for reader in clients(api, "ann", "--role", "read"):
        assert reader.get("/v1/renders").status_code == 200
        refused = reader.post("/v1/renders", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["title"]) == (403, "Forbidden")


def test_limits_are_answered_with_what_to_do(api: Api) -> None:
    options = ("--queued", "3", "--work", str(64 * 64 * 50))
    for client in clients(api, "cid", *options):
        never = client.post("/v1/renders", json={"prompt": "a", "n": 4})
        assert (never.status_code, never.headers.get("retry-after")) == (403, None)
        large = client.post("/v1/renders", json={"prompt": "a", "steps": 51})
        assert large.status_code == 403
        named = {"Idempotency-Key": "mine"}
        first = client.post("/v1/renders", json={"prompt": "a", "n": 3, "model": "slow"}, headers=named)
        # The same again asks for nothing more.
        again = client.post("/v1/renders", json={"prompt": "a", "n": 3, "model": "slow"}, headers=named)
        assert (first.status_code, again.status_code, again.json()["id"]) == (202, 202, first.json()["id"])
        much = client.post("/v1/renders", json={"prompt": "a"})
        assert (much.status_code, much.headers["retry-after"]) == (429, "30")
        client.delete(f"/v1/renders/{again.json()['id']}")


def test_a_revoked_key_is_let_in_no_more(home: Home, address: str) -> None:
    made = home.farm("keys", "create", "--name", "brief", "--json").json
    assert made["id"] in home.farm("keys", "list").out
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{address}/v1/renders", headers=headers, timeout=60).status_code == 200
    home.farm("keys", "revoke", made["id"])
    assert httpx.get(f"{address}/v1/renders", headers=headers, timeout=60).status_code == 401
    assert "no key with id" in home.farm("keys", "revoke", "nobody", code=2).complaint


def test_no_secret_is_in_a_log(ann: httpx.Client, home: Home) -> None:
    secret = ann.headers["authorization"].removeprefix("Bearer ")
    said = [file.read_text(errors="replace") for file in home.folder.rglob("*.err")]
    said += [file.read_text(errors="replace") for file in (home.path / "logs").iterdir()]
    assert said
    assert not any(secret in text or secret.split("_", 2)[2] in text for text in said)
    assert not any("Traceback" in text for text in said)


def test_callers_are_told_how_much_room_their_own_pictures_take_and_an_admin_of_all(
    ann: httpx.Client, ben: httpx.Client, api: Api
) -> None:
    made = finished(ann, ann.post("/v1/renders", json={"prompt": "a", "model": "quick", "n": 2}).json()["id"])
    stored = [ann.get(f"/v1/jobs/{made['id']}-{n:06d}").json()["bytes"] for n in range(2)]

    [anns] = ann.get("/v1/usage").json()
    bens = ben.get("/v1/usage").json()
    admins = httpx.get(
        f"{api.address}/v1/usage", headers={"X-API-Key": api.key("root", "--role", "admin")}, timeout=60
    ).json()

    assert anns["owner"] == "ann"
    assert anns["pictures"] >= 2
    assert anns["bytes"] >= sum(stored)
    assert anns["oldest"] <= anns["newest"]
    assert {one["owner"] for one in bens} <= {"ben"}
    assert anns in admins


def test_the_page_says_what_everything_is(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json", timeout=60).json()
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


def address_of(api: Running) -> str:
    api.says("documentation at /docs")
    match = re.search(r"http://[\d.]+:\d+", api.err)
    assert match is not None
    return match[0]


def test_one_command_serves_and_renders_and_leaves_nothing_behind(tmp_path: Path, starter: Starter) -> None:
    home = Home(tmp_path, starter)
    home.path.mkdir()
    (home.path / "models.toml").write_text(MODELS)
    with home.started("api", "--port", "0") as api:
        api.says("starting a farm on this machine")
        asked = {"prompt": "a star", "model": "quick", "n": 3}
        made = httpx.post(f"{address_of(api)}/v1/renders", json=asked, headers={"Prefer": "wait=60"}, timeout=90).json()
        assert (made["state"], made["done"], made["remarks"]) == ("done", 3, [])
        assert api.interrupted().code in (0, 130)
    home.is_left_in_peace()
    refused = home.farm("api", "--with-worker", "--port", "0", code=2, settings={"FARM_BROKER_URL": "redis://there"})
    refused.complains("--with-worker: addresses are set, so workers are started elsewhere")


def test_one_ctrl_c_answers_whoever_waits_and_ends_the_api(tmp_path: Path, starter: Starter) -> None:
    home = Home(tmp_path, starter)
    with (
        home.started("api", "--port", "0", "--without-worker") as api,
        httpx.Client(base_url=address_of(api), timeout=60) as client,
        ThreadPoolExecutor(3) as callers,
    ):
        api.says("nothing renders what is submitted: no worker runs; `farm up` starts one")
        accepted = client.post("/v1/renders", json={"prompt": "a star"}).json()
        assert accepted["remarks"] == ["model: no worker serves shapes now, so its pictures wait until one does"]
        assert (accepted["state"], accepted["why"]) == ("waiting", "no worker runs; `farm up` starts one")
        render = accepted["id"]
        waits = {"prompt": "a star", "width": 64, "height": 64, "steps": 2}
        drawn = callers.submit(client.post, "/sdapi/v1/txt2img", json=waits)
        told = callers.submit(events, client, f"/v1/renders/{render}/events", follows := Event())
        preferred = callers.submit(client.post, "/v1/renders", json={"prompt": "b"}, headers={"Prefer": "wait=50"})
        eventually(lambda: home.rows("SELECT count(*) FROM renders") == [(3,)], "all are accepted")
        assert follows.wait(60)

        ended = api.interrupted()

        assert (drawn.result().status_code, drawn.result().headers["Retry-After"]) == (503, "10")
        assert "the API is stopping" in drawn.result().text
        assert preferred.result().status_code == 202
        assert told.result().startswith("event: progress")
    assert ended.code in (0, 130)
    assert "Traceback" not in ended.err
    assert " error" not in ended.err.lower()


def events(client: httpx.Client, path: str, follows: Event) -> str:
    """Return all that a stream says; `follows` is set by its first word."""
    said = ""
    with client.stream("GET", path) as stream:
        for part in stream.iter_text():
            said += part
            follows.set()
    return said


def test_a_farm_with_keys_is_not_opened_to_everybody(home: Home) -> None:
    home.farm("keys", "create", "--name", "first")
    refused = home.farm("api", "--open", "--port", "0", code=2)
    assert "keys were made" in refused.complaint
