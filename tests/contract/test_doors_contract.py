"""The same orders through every way in: the same refusals, the same remarks, the same rows."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.objects.inputs import put_input
from storage.renders.views import JobView
from storage.rules.states import Priority
from storage.spec.picture import MAX_SEED, Request
from tests.contract.doors import (
    Batches,
    Clock,
    CommandLine,
    Door,
    Fields,
    Images,
    Lists,
    Outcome,
    Predictions,
    Python,
    Rows,
    WebUI,
)
from tests.contract.stage import Stage, png, running_stage
from tests.servers import eventually

_SIZE = {"width": "size", "height": "size"}
#: Fields that OpenAI's protocol has no word for.
_OPENAI_LACKS = frozenset(
    {"sampler", "eta", "control_images", "loras", "labels", "priority", "prompt_weighting", "colour"}
)
DOORS: tuple[Door, ...] = (
    CommandLine(name="command line", lacks=frozenset({"custom_id", "labels", "colour"}), watched=False),
    Fields(name="/v1/renders", lacks=frozenset({"colour"})),
    Lists(name="/v1/renders, lists", lacks=frozenset({"colour"})),
    # A column that is no field is a label.
    Rows(name="/v1/renders, manifest", lacks=frozenset({"colour"})),
    Python(name="Python client", lacks=frozenset({"colour"})),
    Clock(name="schedule", lacks=frozenset({"colour"})),
    Images(name="OpenAI images", spelling=_SIZE, lacks=_OPENAI_LACKS | {"custom_id"}, priority="interactive"),
    Batches(name="OpenAI batches", spelling=_SIZE, lacks=_OPENAI_LACKS, priority="bulk"),
    WebUI(
        name="AUTOMATIC1111",
        spelling={
            "num_inference_steps": "steps",
            "guidance_scale": "cfg_scale",
            "model": "sd_model_checkpoint",
            "sampler": "sampler_name",
            "control_images": "alwayson_scripts",
            "n": "batch_size",
        },
        lacks=frozenset({"custom_id", "labels", "loras", "priority", "prompt_weighting", "colour"}),
        defaults={"num_inference_steps": 50, "guidance_scale": 7.0},
        priority="interactive",
    ),
    Predictions(
        name="Replicate",
        spelling={"model": "version", "sampler": "scheduler", "n": "num_outputs"},
        lacks=frozenset({"priority", "colour"}),
        priority="interactive",
    ),
)
KEYED = [door for door in DOORS if not isinstance(door, CommandLine)]
NAMED = [door for door in DOORS if not isinstance(door, Clock)]


def named(doors: Sequence[Door]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("door", doors, ids=lambda door: door.name)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("doors") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def stored(stage: Stage) -> str:
    """The reference of a conditioning image in the store."""
    return put_input(stage.services.objects, png())


_NOWHERE = f"sha256:{'0' * 64}"

#: What is asked for beside a prompt, the field that is wrong, and the words of the refusal.
WRONG: tuple[tuple[Mapping[str, Any], str, str], ...] = (
    ({"width": 65}, "width", r"must be a multiple of 8"),
    ({"height": 0}, "height", r"must be greater than or equal to 8"),
    ({"width": 99_992}, "width", r"must be less than or equal to 8192"),
    ({"width": 8192, "height": 8192}, "width", r"67\.1 megapixels"),
    ({"num_inference_steps": 0}, "num_inference_steps", r"must be greater than or equal to 1"),
    ({"num_inference_steps": 2000}, "num_inference_steps", r"must be less than or equal to 1000"),
    ({"guidance_scale": -1.0}, "guidance_scale", r"must be greater than or equal to 0"),
    ({"guidance_scale": "much"}, "guidance_scale", r"valid (number|float)"),
    ({"sampler": "Magic"}, "sampler", r"is not a sampler"),
    ({"model": "nope"}, "model", r"'nope'.*tiny, net"),
    ({"prompt": ""}, "prompt", r"must not be empty"),
    ({"prompt": "a\0b"}, "prompt", r"NUL"),
    ({"prompt": "a" * 10_001}, "prompt", r"must have at most 10000 characters"),
    ({"negative_prompt": "a" * 10_001}, "negative_prompt", r"must have at most 10000 characters"),
    ({"seed": -2}, "seed", r"must be greater than or equal to -?[01]"),
    ({"seed": MAX_SEED + 1}, "seed", rf"less than or equal to {MAX_SEED}"),
    ({"n": 0}, "n", r"(>=1|greater than or equal to 1|must be 1 to)"),
    ({"sampler": "euler", "eta": 0.5}, "eta", r"only (the sampler )?DDIM"),
    ({"model": "net"}, "control_images", r"each needs an image"),
    ({"model": "net", "control_images": [_NOWHERE]}, "control_images", r"(not in the store|not a complete PNG)"),
    (
        {"model": "net", "control_images": ["/nowhere.png"]},
        "control_images",
        r"(not a stored input|No such|not a complete)",
    ),
    ({"loras": {"oil": 1.0}}, "loras", r"'oil'"),
    ({"prompt_weighting": "magic"}, "prompt_weighting", r"compel"),
)


def lacking(door: Door, asked: Mapping[str, Any]) -> str | None:
    return next((field for field in asked if field in door.lacks), None)


def assert_a_word_is_said(outcome: Outcome, field: str) -> None:
    said = outcome.words if outcome.render_id is None else " ".join(outcome.remarks)
    assert field.replace("_", "-") in said.replace("_", "-"), f"{field} was passed over: {outcome}"


@named(DOORS)
@pytest.mark.parametrize(("asked", "field", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_order_is_refused_with_the_field_and_the_reason(
    door: Door, stage: Stage, asked: Mapping[str, Any], field: str, words: str
) -> None:
    outcome = door.send(stage, {"prompt": "a star", **asked})
    if (missing := lacking(door, asked)) is not None:
        assert_a_word_is_said(outcome, missing)
        return
    if isinstance(door, WebUI) and field == "eta":
        # Its clients send one with every request.
        assert_a_word_is_said(outcome, "eta")
        return
    assert outcome.render_id is None, outcome
    assert outcome.status in (None, 422)
    assert re.search(words, outcome.words), outcome.words
    # Where a type is wrong, click names the option.
    option = f"--{field.split('_')[0 if field != 'prompt_weighting' else 1]}"
    assert door.spelling.get(field, field) in outcome.words or option in outcome.words, outcome.words


# -- right orders ----------------------------------------------------------------------------------------------

RIGHT: tuple[Mapping[str, Any], ...] = (
    {},
    {"n": 3, "seed": 5},
    {"seed": MAX_SEED},
    {"width": 128, "height": 72, "num_inference_steps": 7, "guidance_scale": 2.5},
    {"sampler": "euler a"},
    {"sampler": "ddim", "eta": 0.5},
    {"prompt": "ein großer Stern ⭐ עיר"},
    {"negative_prompt": "blue", "guidance_scale": 1.0},
    {"model": "net", "control_images": ["the stored one"]},
    {"custom_id": "mine"},
    {"labels": {"topic": "stars"}},
    {"priority": "bulk"},
)


def jobs_of(stage: Stage, render_id: str) -> list[JobView]:
    return list(stage.services.views.jobs(render_id))


def expected(door: Door, stage: Stage, asked: Mapping[str, Any], seed: int) -> str:
    """The canonical specification of what was asked."""
    beside = ("n", "priority", "custom_id", "labels", "seed")
    fields = {name: value for name, value in asked.items() if name not in beside}
    if isinstance(door, WebUI) and "control_images" in fields:
        # A unit of ControlNet says these, too.
        fields |= {
            "controlnet_conditioning_scale": [1.0],
            "control_guidance_start": [0.0],
            "control_guidance_end": [1.0],
        }
    request = Request.parse({**door.defaults, **fields})
    return stage.services.registry.resolve(request, seed=seed).canonical()


@named(DOORS)
@pytest.mark.parametrize("asked", RIGHT, ids=lambda value: str(value)[:40])
def test_a_right_order_comes_to_the_same_rows(door: Door, stage: Stage, stored: str, asked: Mapping[str, Any]) -> None:
    asked = {"prompt": "a star", **asked}
    if "control_images" in asked:
        asked["control_images"] = [stored]
    outcome = door.send(stage, asked)
    if (missing := lacking(door, asked)) is not None:
        assert_a_word_is_said(outcome, missing)
        return

    assert outcome.render_id is not None, outcome.words
    render, jobs = stage.services.views.render(outcome.render_id), jobs_of(stage, outcome.render_id)
    assert (render.owner, render.total) == ("ann", asked.get("n", 1))
    assert render.priority == Priority[asked.get("priority", door.priority).upper()]
    assert stage.services.views.is_watched(render.id) == door.watched
    first = asked.get("seed", jobs[0].spec.seed)
    assert [job.spec.seed for job in jobs] == [first + copy for copy in range(len(jobs))]
    assert [job.spec.canonical() for job in jobs] == [expected(door, stage, asked, job.spec.seed) for job in jobs]
    if "labels" in asked:
        assert jobs[0].labels == asked["labels"]
    if "custom_id" in asked:
        assert jobs[0].custom_id == asked["custom_id"]
    ignored = "negative_prompt: the model tiny ignores it at a guidance_scale of 1"
    assert (ignored in outcome.remarks) == ("negative_prompt" in asked)


# -- what a key lets its holder do -----------------------------------------------------------------------------


@named(KEYED)
def test_more_than_the_quota_is_refused_with_when_to_come_back(door: Door, stage: Stage) -> None:
    key = stage.new_key("cid", per_day=3)
    assert door.send(stage, {"prompt": "a star", "n": 2}, key=key).render_id is not None
    outcome = door.send(stage, {"prompt": "a star", "n": 2}, key=key)
    assert (outcome.render_id, outcome.status) == (None, 429)
    assert "pictures a day" in outcome.words


@named(KEYED)
def test_a_picture_of_more_work_than_the_key_allows_is_refused(door: Door, stage: Stage) -> None:
    key = stage.new_key("cid", work=100)
    outcome = door.send(stage, {"prompt": "a star"}, key=key)
    assert (outcome.render_id, outcome.status) == (None, 403)
    assert "limit of 100" in outcome.words


@named(NAMED)
def test_the_same_order_under_the_same_name_is_one_render_and_another_one_a_conflict(door: Door, stage: Stage) -> None:
    name = f"order of {door.name}"
    first, again = (door.send(stage, {"prompt": "a star", "seed": 1}, name=name) for _ in range(2))
    other = door.send(stage, {"prompt": "a circle", "seed": 1}, name=name)
    assert first.render_id is not None
    assert again.render_id == first.render_id
    assert (other.render_id, other.status) in ((None, 409), (None, None))
    assert name in other.words


@named([door for door in DOORS if door.watched])
def test_what_comes_in_over_http_is_followed(door: Door, stage: Stage) -> None:
    render_id = door.send(stage, {"prompt": "a star"}).render_id
    with stage.client().stream("GET", f"/v1/renders/{render_id}/events") as answer:
        kinds = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert [kind for kind in kinds if kind != "progress"] == ["job.started", "job.done", "render.finished"]


# -- what other protocols have and the farm has not ------------------------------------------------------------

_LINE = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations"}


@pytest.mark.parametrize(
    ("path", "body", "remarked"),
    [
        *(
            ("/v1/images/generations", {name: value}, name)
            for name, value in (
                ("quality", "high"),
                ("style", "vivid"),
                ("background", "transparent"),
                ("user", "ann"),
                ("moderation", "low"),
                ("model", "gpt-image-1"),
                ("output_compression", 50),
            )
        ),
        ("/sdapi/v1/txt2img", {"hr_scale": 3}, "hr_scale"),
        ("/sdapi/v1/txt2img", {"sampler_name": "DDIM", "scheduler": "Karras"}, "scheduler"),
        ("/sdapi/v1/txt2img", {"override_settings": {"samples_save": False}}, "samples_save"),
        ("/v1/predictions", {"webhook_events_filter": ["completed"]}, "webhook_events_filter"),
        ("/v1/predictions", {"stream": True}, "stream"),
        ("/v1/batches", {"completion_window": "1h"}, "completion_window"),
        ("/v1/batches", {"output_expires_after": {"seconds": 3600}}, "output_expires_after"),
    ],
)
def test_what_is_ignored_is_remarked_upon(stage: Stage, path: str, body: dict[str, Any], remarked: str) -> None:
    client = stage.client()
    if path == "/v1/batches":
        line = json.dumps(_LINE | {"body": {"prompt": "a star"}}).encode()
        file = client.post("/v1/files", files={"file": ("in.jsonl", line)}, data={"purpose": "batch"}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/images/generations"} | body
    elif path == "/v1/predictions":
        body = {"version": "tiny", "input": {"prompt": "a star"}} | body
    else:
        body = {"prompt": "a star"} | body
    answer = client.post(path, json=body).json()
    told = json.loads(answer["info"])["remarks"] if "info" in answer else answer["remarks"]
    assert [one for one in told if remarked in one], told


def test_what_clients_of_the_web_ui_send_by_default_is_not_remarked_upon(stage: Stage) -> None:
    usual = {
        "denoising_strength": 0.7,
        "hr_scale": 2,
        "hr_upscaler": "Latent",
        "s_noise": 1,
        "subseed": -1,
        "eta": 1.0,
        "styles": [],
        "restore_faces": False,
        "override_settings_restore_afterwards": True,
        "script_args": [],
        "sampler_name": "Euler a",
        "scheduler": "automatic",
        "script_name": None,
        "save_images": False,
    }
    client = stage.client()
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a star", **usual}).json()
    assert json.loads(answer["info"])["remarks"] == []


def test_options_that_are_not_there_are_told(stage: Stage) -> None:
    client = stage.client()
    options = client.post("/sdapi/v1/options", json={"live_previews_enable": True}).json()
    assert "live_previews_enable" in options["remarks"][0]


def test_an_option_that_is_wrong_is_named_as_the_web_ui_does(stage: Stage) -> None:
    refused = stage.client().post("/sdapi/v1/options", json={"sd_model_checkpoint": "nope"})
    assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (422, "sd_model_checkpoint")


def test_lines_of_a_batch_may_be_called_like_the_pictures_of_another_line(stage: Stage) -> None:
    client = stage.client()
    lines = [_LINE | {"custom_id": name, "body": {"prompt": "a star", "n": n}} for name, n in (("a", 2), ("a-0", 1))]
    text = "\n".join(map(json.dumps, lines)).encode()
    file = client.post("/v1/files", files={"file": ("in.jsonl", text)}, data={"purpose": "batch"}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/images/generations"}
    assert client.post("/v1/batches", json=body).json()["request_counts"]["total"] == 2


def test_a_batch_counts_its_lines_while_it_runs(stage: Stage) -> None:
    eventually(lambda: stage.services.views.unfinished_jobs() == 0, "what earlier tests left is rendered")
    stage.working.clear()
    try:
        client = stage.client()
        lines = [_LINE | {"custom_id": f"line {n}", "body": {"prompt": "a star", "n": n}} for n in (1, 2, 3)]
        text = "\n".join(map(json.dumps, lines)).encode()
        file = client.post("/v1/files", files={"file": ("in.jsonl", text)}, data={"purpose": "batch"}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/images/generations"}
        batch = client.post("/v1/batches", json=body, headers={"Idempotency-Key": "counted"}).json()
        again = client.post("/v1/batches", json=body, headers={"Idempotency-Key": "counted"}).json()

        def counts() -> list[int]:
            told = client.get(f"/v1/batches/{batch['id']}").json()
            assert told["status"] == "in_progress"
            return [told["request_counts"][name] for name in ("total", "completed", "failed")]

        before = counts()
        stage.complete("tiny", limit=2)
        during = counts()
        stage.complete("tiny", limit=2)
        later = counts()
        assert (again["id"], before, during, later) == (batch["id"], [3, 0, 0], [3, 1, 0], [3, 2, 0])
        stage.working.set()
        eventually(lambda: client.get(f"/v1/batches/{batch['id']}").json()["status"] == "completed", "it is completed")
        assert client.get(f"/v1/batches/{batch['id']}").json()["request_counts"]["completed"] == 3
    finally:
        stage.working.set()


def test_files_of_the_farms_machine_are_named_at_the_command_line_alone(stage: Stage, tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(png())
    asked = {"prompt": "a star", "model": "net", "control_images": [str(there)]}
    made = {door.name: door.send(stage, asked).render_id is not None for door in DOORS}
    assert [name for name, was_made in made.items() if was_made] == ["command line"]


def test_an_input_is_looked_up_however_its_field_is_written(stage: Stage) -> None:
    row = f'{{"prompt": "a star", "model": "net", "control\\u005fimages": ["{_NOWHERE}"]}}'
    client = stage.client()
    sent = client.post("/v1/files", files={"file": ("rows.jsonl", row.encode())}, data={"purpose": "manifest"}).json()
    refused = client.post("/v1/renders", json={"manifest": sent["id"]})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "control_images")
    assert "not in the store" in refused.json()["detail"]
