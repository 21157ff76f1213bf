"""What clients of OpenAI's, Replicate's and the web UI's rely on, request by request."""

import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_type_hints

import httpx
import openai
import pytest
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming
from PIL import Image
from replicate.client import Client as Replicate
from replicate.exceptions import ReplicateError
from replicate.pagination import paginate

from storage.jobs.values import Submission
from storage.renders.views import RenderView, Views
from storage.rules.states import Priority
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("clients") / "home") as stage:
        yield stage


@pytest.fixture
def idle(stage: Stage) -> Iterator[Stage]:
    """The stage with nothing to do and a worker that does nothing."""
    eventually(lambda: stage.services.views.unfinished_jobs() == 0, "what earlier tests left is rendered")
    stage.working.clear()
    yield stage
    stage.working.set()


# -- interrupt and progress ------------------------------------------------------------------------------------


class Waiting:
    """A `txt2img` on an open connection."""

    def __init__(self, stage: Stage, **body: Any) -> None:
        self._stage = stage
        self._answers: list[Any] = []
        self._thread = threading.Thread(target=self._send, args=({"prompt": "a star", **body},))
        before = stage.services.views.renders(limit=1, owner="ann")
        self._thread.start()

        def accepted() -> str | None:
            newest = stage.services.views.renders(limit=1, owner="ann")
            return newest[0].id if newest != before and self._marked(newest[0].id) else None

        self.render_id = str(eventually(accepted, "it is accepted and waited for"))

    def _marked(self, render_id: str) -> bool:
        with self._stage.services.database.read() as connection:
            query = "SELECT 1 FROM renders WHERE id = :id AND waited_until IS NOT NULL"
            return connection.exec_driver_sql(query, {"id": render_id}).first() is not None

    def _send(self, body: dict[str, Any]) -> None:
        self._answers.append(self._stage.client().post("/sdapi/v1/txt2img", json=body))

    def answer(self) -> Any:
        self._thread.join(60)
        return self._answers[0]


def test_an_interrupt_ends_what_is_waited_for_at_its_door_and_nothing_else(idle: Stage) -> None:
    client = idle.client()
    night = client.post("/v1/renders", json={"prompt": "a star", "n": 30, "priority": "bulk"}).json()["id"]
    prediction = client.post("/v1/predictions", json={"version": "tiny", "input": {"prompt": "a star"}}).json()["id"]
    nothing = client.post("/sdapi/v1/interrupt").json()
    waiting = Waiting(idle)
    later = client.post("/v1/renders", json={"prompt": "a later star"}).json()["id"]

    stranger = idle.client(idle.new_key("ben"))
    assert "nothing to interrupt" in stranger.post("/sdapi/v1/interrupt").json()["remarks"][0]
    assert client.post("/sdapi/v1/interrupt").json() == {}

    assert "nothing to interrupt" in nothing["remarks"][0]
    assert waiting.answer().status_code == 200
    states = {
        name: idle.services.views.render(name).cancelled for name in (night, prediction, waiting.render_id, later)
    }
    assert states == {night: 0, prediction: 0, waiting.render_id: 1, later: 0}
    assert "nothing to interrupt" in client.post("/sdapi/v1/interrupt").json()["remarks"][0]


def test_what_is_waited_for_longest_is_interrupted_first(idle: Stage) -> None:
    first, second = Waiting(idle), Waiting(idle)
    idle.client().post("/sdapi/v1/interrupt")
    assert first.answer().json()["images"] == []
    assert idle.services.views.render(second.render_id).cancelled == 0
    idle.working.set()
    assert second.answer().status_code == 200


def test_an_interrupted_call_is_answered_with_the_pictures_that_were_made(idle: Stage) -> None:
    """As the web UI does: its clients read the answer of an interrupted call as that of any other."""
    none, some = Waiting(idle, batch_size=2), Waiting(idle, batch_size=3, seed=40)
    idle.client().post("/sdapi/v1/interrupt")
    assert idle.complete("tiny", limit=2) == 2
    idle.client().post("/sdapi/v1/interrupt")
    for waiting, made, total in ((none, 0, 2), (some, 2, 3)):
        answer = waiting.answer()
        info = json.loads(answer.json()["info"])
        assert (answer.status_code, len(answer.json()["images"])) == (200, made)
        assert info["remarks"] == [f"interrupted: {made} of {total} pictures were made (render {waiting.render_id})"]
        assert len(info["infotexts"]) == len(info["all_seeds"]) == len(info["all_prompts"]) == made
    assert (info["seed"], info["all_seeds"]) == (40, [40, 41])


def test_progress_is_that_of_what_is_waited_for(idle: Stage) -> None:
    client = idle.client()
    client.post("/v1/renders", json={"prompt": "a star", "n": 30})
    assert client.get("/sdapi/v1/progress").json()["state"]["job"] == ""
    waiting = Waiting(idle, batch_size=2)
    told = client.get("/sdapi/v1/progress").json()
    assert (told["state"]["job"], told["state"]["job_count"], told["progress"]) == (waiting.render_id, 2, 0)
    idle.working.set()
    assert waiting.answer().status_code == 200
    assert client.get("/sdapi/v1/progress").json()["state"]["job"] == ""


def test_a_render_is_waited_for_no_more_when_its_process_is_gone(idle: Stage) -> None:
    waiting = Waiting(idle)
    with idle.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE renders SET waited_until = waited_until - 60")
    assert "nothing to interrupt" in idle.client().post("/sdapi/v1/interrupt").json()["remarks"][0]
    idle.working.set()
    assert waiting.answer().status_code == 200


# -- Replicate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "version", "asked", "says"),
    [
        ("/v1/predictions", "tiny", {"n": 3, "num_outputs": 2}, "num_outputs: the same as n; give one of them"),
        ("/v1/predictions", "tiny", {"sampler": "ddim", "scheduler": "euler"}, "scheduler: the same as sampler"),
        (
            "/v1/predictions",
            "tiny",
            {"num_outputs": "2"},
            r"num_outputs: must be 1 to 100, a whole number .*given: '2'",
        ),
        (
            "/v1/predictions",
            "tiny",
            {"num_outputs": True},
            r"num_outputs: must be 1 to 100, a whole number .*given: true",
        ),
        ("/v1/predictions", "", {}, "version: must have at least 1 character"),
        ("/v1/models/farm/tiny/predictions", "toy", {}, "version: the address names the model tiny"),
    ],
)
def test_what_a_prediction_says_twice_or_in_part_is_refused(
    stage: Stage, path: str, version: str, asked: dict[str, Any], says: str
) -> None:
    answer = stage.client().post(path, json={"version": version, "input": {"prompt": "a", **asked}})
    assert answer.status_code == 422
    assert re.match(says, answer.json()["detail"])


@pytest.mark.parametrize(("version", "told"), [("tiny", False), ("ann/tiny:tiny", False), ("ann/tiny:5c7d5dc6", True)])
def test_a_version_that_there_is_not_is_told(stage: Stage, version: str, told: bool) -> None:
    made = stage.client().post("/v1/predictions", json={"version": version, "input": {"prompt": "a star"}}).json()
    ignored = ["version: 5c7d5dc6 ignored; a model has one version here, named as it is"]
    assert made["remarks"] == ignored * told


@pytest.mark.parametrize("prefer", [None, "wait=1"])
@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/models/farm/tiny/predictions"])
def test_a_prediction_that_is_not_over_is_starting_when_the_wait_is(idle: Stage, path: str, prefer: str | None) -> None:
    body = {"version": "tiny", "input": {"prompt": "a star", "num_outputs": 2}}
    claimed: list[Any] = []

    def claim() -> None:
        claimed.append(eventually(lambda: idle.services.jobs.claim(model="tiny", worker="w", limit=8), "it is claimed"))

    claiming = threading.Thread(target=claim)
    claiming.start()
    made = idle.client().post(path, json=body, headers={} if prefer is None else {"Prefer": prefer}).json()
    claiming.join()
    assert (made["status"], made["output"]) == ("starting", None)
    assert idle.client().get(f"/v1/predictions/{made['id']}").json()["status"] == "processing"
    idle.client().post(f"/v1/predictions/{made['id']}/cancel")


def test_a_prediction_that_is_over_within_the_wait_has_its_pictures(stage: Stage) -> None:
    body = {"version": "tiny", "input": {"prompt": "a star"}}
    made = stage.client().post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
    assert (made["status"], len(made["output"])) == ("succeeded", 1)


@pytest.mark.slow
def test_predictions_are_listed_by_pages_in_both_directions(stage: Stage) -> None:
    key = stage.new_key("paul")
    jobs = stage.services.jobs
    spec = next(stage.services.views.jobs(stage.client().post("/v1/renders", json={"prompt": "a"}).json()["id"])).spec
    ids = [
        jobs.submit([spec], Submission(owner="paul", priority=Priority.BULK), quanta={"tiny": 8}) for _ in range(205)
    ]
    for name in ids:
        jobs.cancel(name)
    client = Replicate(api_token=key, base_url=stage.address)
    stage.held.callback(client._client.close)
    pages = list(paginate(client.predictions.list))
    assert [len(page) for page in pages] == [100, 100, 5]
    newest_first = [one.id for one in stage.services.views.renders(limit=1000, owner="paul")]
    assert [prediction.id for page in pages for prediction in page] == newest_first
    assert (pages[0].previous, pages[-1].next) == (None, None)
    back = client.predictions.list(pages[2].previous)
    assert [one.id for one in back] == newest_first[100:200]
    front = client.predictions.list(back.previous)
    assert [one.id for one in front] == newest_first[:100]
    assert (front.previous, front.next) == (None, pages[0].next)
    for cursor in ("after", "before.nothing", "after.%00"):
        assert stage.client(key).get(f"/v1/predictions?cursor={cursor}").status_code in (404, 422)


# -- nulls -----------------------------------------------------------------------------------------------------

_OF_OPENAI = get_type_hints(ImageGenerateParamsNonStreaming)


@pytest.mark.parametrize("field", sorted(_OF_OPENAI.keys() - {"prompt"}))
def test_null_in_a_field_of_openais_client_means_that_it_is_left_out(stage: Stage, field: str) -> None:
    answer = stage.client().post("/v1/images/generations", json={"prompt": "a star", field: None})
    assert (answer.status_code, answer.json().get("remarks")) == (200, []), answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predictions", {"version": "tiny", "input": {"prompt": "a", "seed": None}, "webhook": None}),
        ("/v1/predictions", {"version": None, "input": {"prompt": "a"}, "stream": None, "webhook_events_filter": None}),
        (
            "/sdapi/v1/txt2img",
            {"prompt": "a star", "steps": None, "cfg_scale": None, "batch_size": None, "n_iter": None},
        ),
        ("/sdapi/v1/txt2img", {"prompt": "a", "seed": None, "negative_prompt": None, "override_settings": None}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "send_images": None, "alwayson_scripts": None, "enable_hr": None}),
    ],
)
def test_null_means_left_out_at_every_clients_door(stage: Stage, path: str, body: dict[str, Any]) -> None:
    answer = stage.client().post(path, json=body)
    assert answer.is_success, answer.text


@pytest.mark.parametrize(("asked", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_url_of_openais_door_leads_to_the_format_that_was_asked_for(stage: Stage, asked: str, kind: str) -> None:
    body = {"prompt": "a star", "response_format": "url", "output_format": asked, "output_compression": 50}
    told = stage.client().post("/v1/images/generations", json=body).json()
    answer = httpx.get(told["data"][0]["url"], timeout=60)
    assert (told["output_format"], answer.headers["Content-Type"]) == (asked, f"image/{asked}")
    assert Image.open(io.BytesIO(answer.content)).format == kind


#: Of OpenAI's parameters, a value that is not the default.
_OTHER_VALUES: dict[str, Any] = {
    "background": "transparent",
    "complexity": "high",
    "frame_count": 4,
    "frame_duration_ms": 100,
    "model": "gpt-image-2",
    "moderation": "low",
    "n": 2,
    "output_compression": 50,
    "output_format": "gif",
    "partial_images": 2,
    "quality": "max",
    "response_format": "url",
    "safety_identifier": "user-1",
    "size": "128x64",
    "stream": True,
    "style": "vivid",
    "svg": {"model": "gpt-6"},
    "user": "ann",
}


@pytest.mark.parametrize("field", sorted(_OF_OPENAI.keys() - {"prompt"}))
def test_every_parameter_of_openais_client_is_done_refused_or_remarked_upon(stage: Stage, field: str) -> None:
    body = {"prompt": "a star", field: _OTHER_VALUES[field]}
    answer = stage.client().post("/v1/images/generations", json=body)
    if not answer.is_success:
        assert answer.json()["error"]["param"] == field, answer.text
        return
    plain = stage.client().post("/v1/images/generations", json={"prompt": "a star"}).json()
    if field == "stream":
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "event: image_generation.completed" in answer.text
        return
    told = answer.json()
    done = told["size"] != plain["size"] or len(told["data"]) != 1 or told["data"][0].get("url")
    assert done or any(remark.startswith(f"{field}: ") for remark in told["remarks"]), told["remarks"]


def test_openais_client_retrieves_a_model(stage: Stage) -> None:
    with openai.OpenAI(base_url=f"{stage.address}/v1", api_key=stage.key, max_retries=0) as client:
        assert client.models.retrieve("tiny").model_dump() in [one.model_dump() for one in client.models.list()]
        with pytest.raises(openai.NotFoundError, match="no model named 'nothing'") as unknown:
            client.models.retrieve("nothing")
        assert unknown.value.code == "not_found"
    told = stage.client().get("/v1/models/nothing").json()
    assert (told["code"], told["detail"][:18]) == ("not_found", "no model named 'no")


def test_replicates_client_gets_models_and_runs_their_versions(stage: Stage) -> None:
    client = Replicate(api_token=stage.key, base_url=stage.address)
    stage.held.callback(client._client.close)
    model = client.models.get("farm/tiny")
    assert (model.id, model.visibility) == ("farm/tiny", "private")
    assert model.latest_version is not None
    assert [version.id for version in model.versions.list()] == [model.latest_version.id] == ["tiny"]
    fields = model.latest_version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    assert {"prompt", "seed", "num_outputs", "guidance_scale"} <= fields.keys()
    assert "model" not in fields
    [picture] = client.run("farm/tiny:tiny", input={"prompt": "a star"})
    assert picture.read().startswith(b"\x89PNG")
    for name in ("farm/nothing", "farm/nothing:nothing"):
        with pytest.raises(ReplicateError, match="nothing"):
            client.models.get(name) if ":" not in name else client.run(name, input={"prompt": "a star"})
    with pytest.raises(ReplicateError, match="no version 'other' of the model 'tiny'"):
        model.versions.get("other")


def test_a_prediction_that_is_deleted_while_it_is_listed_is_left_out(
    idle: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = idle.client()
    made = client.post("/v1/predictions", json={"version": "tiny", "input": {"prompt": "a star"}}).json()["id"]
    found = Views.renders

    def with_one_that_goes(self: Views, **which: Any) -> list[RenderView]:
        seen = found(self, **which)
        return [replace(seen[0], id="gone00000000"), *seen]

    monkeypatch.setattr(Views, "renders", with_one_that_goes)
    listed = [one["id"] for one in client.get("/v1/predictions").json()["results"]]
    assert made in listed
    assert "gone00000000" not in listed
    client.post(f"/v1/predictions/{made}/cancel")
