"""At the doors: what limits refuse is refused before it is made, and bodies are bounded by what they unpack to."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.stage import Stage, running_stage
from tests.contract.test_webui_controlnet import picture
from tests.contract.webui import Drawn
from tests.hostile.documented import multipart


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("bounds") / "home") as stage:
        yield stage


#: A few hundred bytes that ask for thousands of pictures, of which the last is wrong.
MANY: dict[str, Any] = {"prompt": "a star", "n": 100, "product": {"seed": [*range(49)], "steps": [4, -1]}}


@pytest.mark.parametrize("dry_run", [False, True])
def test_pictures_beyond_the_limits_are_refused_before_they_are_specified(stage: Stage, dry_run: bool) -> None:
    client = stage.client(stage.new_key(queued=5))
    answer = client.post("/v1/renders", json={**MANY, "dry_run": dry_run})
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "more pictures than this key's limit of 5 unfinished pictures allows, now and later; submit fewer at a time",
    )
    within = stage.client(stage.new_key(queued=10_000)).post("/v1/renders", json={**MANY, "dry_run": dry_run})
    assert within.status_code == 422


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_prompt_file_is_read_no_further_than_limits_go(stage: Stage, dry_run: bool) -> None:
    key = stage.new_key(queued=5)
    rows = b'{"prompt": "a"}\n' * 6 + b'{"prompt": 7}\n'
    file = stage.client(key).post(
        "/v1/files", files={"file": ("rows.jsonl", io.BytesIO(rows))}, data={"purpose": "manifest"}
    )
    answer = stage.client(key).post("/v1/renders", json={"manifest": file.json()["id"], "dry_run": dry_run})
    assert answer.status_code == 403, answer.text


def test_a_schedule_that_could_never_fire_is_refused_before_its_pictures_are_specified(stage: Stage) -> None:
    body = {"name": "nightly", "cron": "0 2 * * *", "render": MANY}
    answer = stage.client(stage.new_key(queued=5)).post("/v1/schedules", json=body)
    assert answer.status_code == 403, answer.text


def test_a_batch_is_read_no_further_than_limits_go(stage: Stage) -> None:
    client = stage.client(stage.new_key(queued=5))
    line = {"method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a", "n": 2}}
    lines = "".join(json.dumps({"custom_id": str(number), **line}) + "\n" for number in range(3)) + "wrong\n"
    file = client.post("/v1/files", files={"file": ("a.jsonl", lines.encode())}, data={"purpose": "batch"}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/images/generations", "completion_window": "24h"}
    assert client.post("/v1/batches", json=body).status_code == 403


def test_a_form_has_few_files_and_short_fields(stage: Stage) -> None:
    five = [("file", (f"{number}.txt", b"a")) for number in range(5)]
    assert "Too many files" in stage.client().post("/v1/files", files=five).text
    long = stage.client().post("/v1/files", files=five[:1], data={"purpose": "p" * 100_000})
    assert "Part exceeded maximum size" in long.text
    fields = {f"field{number}": "a" for number in range(20)}
    assert "Too many fields" in stage.client().post("/v1/files", files=five[:1], data=fields).text


@pytest.mark.parametrize("purpose", ["batch", "manifest", "input"])
def test_a_name_of_a_file_that_no_database_could_keep_is_refused(stage: Stage, purpose: str) -> None:
    content_type, content = multipart("\0.jsonl", purpose, b'{"prompt": "a"}\n')
    answer = stage.client().post("/v1/files", content=content, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "file: its name must not contain the character NUL",
    )


@pytest.mark.parametrize(
    ("values", "what"),
    [(b"[]," * 260_000, "250,000 lists and objects"), (b"1," * 1_100_000, "1,000,000 values or commas")],
    ids=["lists", "numbers"],
)
def test_json_of_very_many_values_is_refused_before_it_is_read(stage: Stage, values: bytes, what: str) -> None:
    body = b'{"prompt": "a", "product": [' + values + b"1]}"
    answer = stage.client().post("/v1/renders", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (413, f"request body with more than {what}; split it")


def test_json_of_an_object_of_very_many_fields_is_refused_before_they_are_errors(stage: Stage) -> None:
    fields = {f"field {number}": 1 for number in range(10_001)}
    answer = stage.client().post("/v1/renders", json={"prompt": "a", "webhook": {"url": "https://a.b", **fields}})
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "request body with an object of more than 10,000 fields; split it",
    )


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_of_the_web_ui_that_is_too_long_is_not_read(stage: Stage, field: str) -> None:
    # Its weight would be told, if it were.
    drawn = Drawn(stage, **{"prompt": "a", field: "(a:1.1.1)" * 2000})
    assert drawn.status == 422
    assert f"{field}: must have at most 10000 characters" in drawn.words


def test_control_images_that_no_controlnet_takes_are_not_read(stage: Stage) -> None:
    drawn = Drawn(stage, alwayson_scripts={"controlnet": {"args": [{"image": "not even read"}]}})
    assert drawn.status == 422
    assert "alwayson_scripts: the model tiny has no ControlNet, and 1 unit is given" in drawn.words


def units(*units: dict[str, Any], **body: Any) -> dict[str, Any]:
    return {
        "override_settings": {"sd_model_checkpoint": "net"},
        "alwayson_scripts": {"controlnet": {"args": [*units]}},
        **body,
    }


def test_control_images_are_not_brought_to_a_size_that_no_picture_has(stage: Stage) -> None:
    drawn = Drawn(stage, **units({"image": picture(8, 8)}, width=9000, height=2000))
    assert drawn.status == 422
    assert "9000 × 2000 is 18.0 megapixels; the maximum is 16.8" in drawn.words


def test_control_images_are_no_more_than_a_picture_can_have(stage: Stage) -> None:
    drawn = Drawn(stage, **units(*[{"image": "not even read"}] * 9))
    assert drawn.status == 422
    assert "9 units of ControlNet; the most are 8" in drawn.words
