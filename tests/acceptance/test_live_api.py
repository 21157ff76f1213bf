"""The API follows the registry: what is added is offered and taken at every door, what is wrong or gone is told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.api import MODELS, Api, finished, running_api
from tests.forks import Starter
from tests.safetensors_files import written
from tests.servers import eventually

ADDED = """
[models.second]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 2
batch_limit = 1
seconds_per_step = 0.01
seconds_per_step_and_picture = 0.2

[models.drawn]
kind = "diffusers"
source = "somebody/drawn"
pipeline = "StableDiffusionPipeline"

[loras.ink]
source = "somebody/ink"

[embeddings.badhands]
source = "{folder}/badhands.safetensors"
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("live")
    written(folder / "badhands.safetensors", {"emb_params": (6, 768)})
    with running_api(folder, starter) as api:
        yield api


@pytest.fixture
def client(live: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.address, timeout=90) as client:
        yield client


def models(client: httpx.Client) -> set[str]:
    return {model["id"] for model in client.get("/v1/models").json()["data"]}


def lists(client: httpx.Client) -> dict[str, Any]:
    """What the other doors and the page offer, beside `/v1/models`."""
    webui: Callable[[str], Any] = lambda what: client.get(f"/sdapi/v1/{what}").json()  # noqa: E731
    return {
        "checkpoints": {one["model_name"] for one in webui("sd-models")},
        "loras": [one["name"] for one in webui("loras")],
        "embeddings": [*webui("embeddings")["loaded"], *webui("embeddings")["skipped"]],
        "page": client.get("/submit").text,
    }


def test_what_is_added_is_offered_and_taken_and_what_is_gone_or_wrong_is_told(live: Api, client: httpx.Client) -> None:
    file: Path = live.home.path / "models.toml"
    before = models(client)
    assert before == {"quick", "slow"}
    unknown = client.post("/v1/renders", json={"prompt": "a star", "model": "second"})
    assert (unknown.status_code, "no model named 'second'" in unknown.json()["detail"]) == (422, True)

    # Added: a model, a LoRA, a word.
    file.write_text(MODELS + ADDED.format(folder=live.home.folder))
    eventually(lambda: models(client) == {"quick", "slow", "second", "drawn"}, "the API offers what was added")
    offered = lists(client)
    assert offered["checkpoints"] == {"quick", "slow", "second", "drawn"}
    assert (offered["loras"], offered["embeddings"]) == (["ink"], ["badhands"])
    assert "second" in offered["page"]
    accepted = client.post("/v1/renders", json={"prompt": "a star", "model": "second"})
    assert accepted.status_code == 202
    assert finished(client, accepted.json()["id"])["done"] == 1
    images = client.post("/v1/images/generations", json={"prompt": "a star", "model": "second"})
    assert images.is_success, images.text
    webui = client.post(
        "/sdapi/v1/txt2img", json={"prompt": "a", "override_settings": {"sd_model_checkpoint": "second"}}
    )
    assert webui.is_success, webui.text
    with_lora = {"prompt": "a star", "model": "drawn", "loras": {"ink": 0.5}}
    waits = client.post("/v1/renders", json=with_lora)
    assert waits.status_code == 202
    client.delete(f"/v1/renders/{waits.json()['id']}")

    # Wrong: the entries before it stay, and doctor says what is wrong.
    right = file.read_text()
    file.write_text(right + "steps = 4\n")
    doctor = live.home.farm("doctor", code=3).out
    assert "what runs goes on with the entries before it" in doctor
    assert models(client) == {"quick", "slow", "second", "drawn"}
    assert client.post("/v1/renders", json={"prompt": "a star", "model": "second"}).status_code == 202
    file.write_text(right)

    # Gone while its jobs wait, and there again.
    waiting = client.post("/v1/renders", json={"prompt": "a star", "model": "second", "n": 40}).json()["id"]
    eventually(lambda: client.get(f"/v1/renders/{waiting}").json()["done"] > 0, "some are done")
    file.write_text(MODELS)
    eventually(lambda: models(client) == {"quick", "slow"}, "the API has heard")
    eventually(lambda: "second" not in str(live.home.rows("SELECT models FROM workers")), "and so has the worker")
    gone = lists(client)
    assert (gone["loras"], gone["embeddings"], "second" in gone["checkpoints"]) == ([], [], False)
    refused = client.post("/v1/renders", json=with_lora | {"model": "second"})
    assert (refused.status_code, "no model named 'second'" in refused.json()["detail"]) == (422, True)
    eventually(lambda: "second" in (_why(client, waiting) or ""), "the API says what it waits for")
    file.write_text(right)
    assert finished(client, waiting)["done"] == 40


def _why(client: httpx.Client, render_id: str) -> str | None:
    """What the API says of a render that waits for a model that is gone."""
    found = client.get(f"/v1/renders/{render_id}").json()
    words = str(found.get("why"))
    return words if "not in the registry any more" in words else None
