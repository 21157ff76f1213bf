"""Clients that nobody here wrote, unchanged, against `farm api`."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import httpx
import openai
import pytest
import webuiapi
from PIL import Image
from replicate.client import Client as Replicate
from replicate.exceptions import ReplicateError

from storage.spec.carried_recipe import recipe_in
from tests.acceptance.api import Api
from tests.servers import eventually

# -- OpenAI ----------------------------------------------------------------------------------------------------


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.address}/v1", api_key=api.key("ann"), max_retries=0) as client:
        yield client


def picture(data: str | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_openais_client_gets_pictures(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="quick", prompt="a red star", n=2, size="128x64", extra_body={"seed": 5, "num_inference_steps": 3}
    )
    assert answer.data is not None
    assert [picture(one.b64_json).size for one in answer.data] == [(128, 64)] * 2
    assert [one.seed for one in answer.data] == [5, 6]


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_pictures_come_in_the_format_asked_for(client: openai.OpenAI, form: str, kind: str) -> None:
    answer = client.images.generate(prompt="a", output_format=form, response_format="b64_json")
    found = picture(answer.data[0].b64_json)
    assert found.format == kind
    # Whatever its format, it says how it was made.
    said = found.info["diffusion-farm"] if kind == "PNG" else recipe_in(found.info["xmp"])
    assert json.loads(said or "")["spec"]["seed"] == answer.data[0].seed


def test_a_picture_may_be_fetched_from_its_address_for_an_hour(client: openai.OpenAI, api: Api) -> None:
    answer = client.images.generate(prompt="a", response_format="url")
    assert answer.data is not None
    address = str(answer.data[0].url)
    assert Image.open(io.BytesIO(httpx.get(address, timeout=60).content)).size == (64, 64)
    for forged in (
        address[:-1],
        f"{address}é",
        address.replace("until=", "until=1"),
        address.replace("-000000", "-000001"),
    ):
        assert httpx.get(forged, timeout=60).status_code == 404
    logs = "".join(file.read_text(errors="replace") for file in api.home.folder.rglob("*.err"))
    assert "/v1/pictures/" in logs
    assert address.partition("signature=")[2] not in logs


def test_openais_client_sees_a_picture_while_it_is_made(client: openai.OpenAI) -> None:
    def received() -> list[Any] | None:
        with client.images.generate(
            model="slow", prompt="a red star", stream=True, partial_images=3, extra_body={"num_inference_steps": 30}
        ) as told:
            found = [*told]
        # How many there are depends on how busy this machine is.
        return found if len(found) > 1 else None

    events = eventually(received, "there are partial images")
    assert events is not None
    *partial, last = events
    assert (last.type, picture(last.b64_json).size) == ("image_generation.completed", (64, 64))
    assert len(partial) <= 3
    assert [(one.type, one.partial_image_index) for one in partial] == [
        ("image_generation.partial_image", number) for number in range(len(partial))
    ]
    assert all(picture(one.b64_json).size == (64, 64) for one in partial)


def test_a_name_of_openais_means_the_default_model(client: openai.OpenAI) -> None:
    assert client.images.generate(model="gpt-image-1", prompt="a").data
    assert [model.id for model in client.models.list()] == ["quick", "slow"]


def test_a_client_that_loses_patience_and_tries_again_starts_one_render(api: Api) -> None:
    key = api.key("impatient")
    with openai.OpenAI(base_url=f"{api.address}/v1", api_key=key, timeout=1, max_retries=8) as client:
        answer = client.images.generate(model="slow", prompt="a slow star")
    assert answer.data is not None
    assert picture(answer.data[0].b64_json).size == (64, 64)
    renders = httpx.get(f"{api.address}/v1/renders", headers={"Authorization": f"Bearer {key}"}, timeout=60).json()[
        "renders"
    ]
    assert [render["total"] for render in renders] == [1]


def test_openais_batches_take_a_file_and_give_one(client: openai.OpenAI) -> None:
    rows = [
        {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": prompt, "n": n}}
        for n, prompt in ((1, "a star"), (2, "a black hole"), (3, "a circle"))
    ]
    sent = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, rows)).encode()), purpose="batch")

    batch = client.batches.create(
        input_file_id=sent.id,
        endpoint="/v1/images/generations",
        completion_window="24h",
        metadata={"for": "a test"},
    )
    eventually(lambda: client.batches.retrieve(batch.id).status == "completed", "it is completed")
    batch = client.batches.retrieve(batch.id)

    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    assert batch.metadata == {"for": "a test"}
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [(line["custom_id"], len(line["response"]["body"]["data"])) for line in lines] == [("r-1", 1), ("r-3", 3)]
    assert picture(lines[0]["response"]["body"]["data"][0]["b64_json"]).size == (64, 64)
    [failed] = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert (failed["custom_id"], failed["error"]["message"]) == ("r-2", "simulated: the picture is not finite")
    assert [one.id for one in client.batches.list()] == [batch.id]
    assert client.batches.cancel(batch.id).status == "completed"


def line(body: str, *, method: str = "POST") -> str:
    return f'{{"custom_id": "a", "method": "{method}", "url": "/v1/images/generations", "body": {body}}}'


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "no requests in this file"),
        ("{", "line 1"),
        (line("{}"), "line 1: body.prompt"),
        (line('{"prompt": "a"}', method="GET"), "method"),
        (f"""{line('{"prompt": "a"}')}\n{line('{"prompt": "b"}')}""", "line 2: duplicate custom_id"),
        (line('{"prompt": "a", "size": "9x9"}'), "line 1: size"),
    ],
)
def test_a_batch_with_a_bad_line_is_refused_whole_with_the_line(client: openai.OpenAI, rows: str, says: str) -> None:
    sent = client.files.create(file=("in.jsonl", rows.encode()), purpose="batch")
    with pytest.raises(openai.UnprocessableEntityError, match=says):
        client.batches.create(input_file_id=sent.id, endpoint="/v1/images/generations", completion_window="24h")


def test_batches_are_their_owners_alone(client: openai.OpenAI, api: Api) -> None:
    sent = client.files.create(file=("in.jsonl", b"x"), purpose="batch")
    with openai.OpenAI(base_url=f"{api.address}/v1", api_key=api.key("ben"), max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.files.content(sent.id)
        with pytest.raises(openai.NotFoundError):
            other.batches.create(input_file_id=sent.id, endpoint="/v1/images/generations", completion_window="24h")


def test_errors_are_those_that_its_users_know(client: openai.OpenAI, api: Api) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="size") as wrong:
        client.images.generate(prompt="a", size="65x64")
    assert wrong.value.param == "size"
    with pytest.raises(openai.UnprocessableEntityError, match="model: .*'nothing'"):
        client.images.generate(model="nothing", prompt="a")
    with pytest.raises(openai.NotFoundError, match="no file with id") as missing:
        client.files.content(f"file-{'0' * 24}")
    assert missing.value.type == "invalid_request_error"
    with (
        openai.OpenAI(base_url=f"{api.address}/v1", api_key="farm_wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.images.generate(prompt="a")


# -- AUTOMATIC1111 ---------------------------------------------------------------------------------------------


@pytest.fixture
def webui(api: Api) -> Iterator[webuiapi.WebUIApi]:
    webui = webuiapi.WebUIApi(baseurl=f"{api.address}/sdapi/v1", username="anybody", password=api.key("web"))
    yield webui
    webui.session.close()


def test_the_web_uis_client_gets_pictures_with_their_infotexts(webui: webuiapi.WebUIApi) -> None:
    answer = webui.txt2img(
        prompt="a red star", negative_prompt="blue", seed=5, steps=3, width=128, height=64, n_iter=2, cfg_scale=4.0
    )
    assert [one.size for one in answer.images] == [(128, 64)] * 2
    assert answer.info["all_seeds"] == [5, 6]
    assert answer.info["infotexts"][0].splitlines() == [
        "a red star",
        "Negative prompt: blue",
        "Steps: 3, Sampler: Euler a, CFG scale: 4, Seed: 5, Size: 128x64, Model: quick, "
        f"Version: diffusion-farm {metadata.version('diffusion-farm')}",
    ]
    assert answer.images[0].info["parameters"] == answer.info["infotexts"][0]
    assert "a red star" in answer.images[0].info["parameters"]
    assert answer.parameters["prompt"] == "a red star"


def test_the_web_uis_client_sees_a_picture_while_it_is_made(webui: webuiapi.WebUIApi) -> None:
    with ThreadPoolExecutor() as pool:
        options = {"override_settings": {"sd_model_checkpoint": "slow"}, "width": 64, "height": 64}
        made = pool.submit(webui.txt2img, prompt="a red star", steps=30, **options)
        seen = eventually(lambda: webui.get_progress()["current_image"], "it is seen")
        assert picture(seen).size == (64, 64)
        assert made.result().image.size == (64, 64)


def test_the_web_uis_client_finds_models_and_samplers_and_chooses(webui: webuiapi.WebUIApi) -> None:
    assert [model["title"] for model in webui.get_sd_models()] == ["quick", "slow"]
    assert {"Euler a", "DPM++ 2M Karras"} <= {sampler["name"] for sampler in webui.get_samplers()}
    assert webui.util_get_current_model() == "quick"
    webui.set_options({"sd_model_checkpoint": "slow"})
    assert webui.util_get_current_model() == "slow"
    assert webui.txt2img(prompt="a", steps=1, width=64, height=64).info["sd_model_name"] == "slow"
    webui.set_options({"sd_model_checkpoint": "quick"})
    again = webui.txt2img(
        prompt="a",
        steps=1,
        width=64,
        height=64,
        override_settings={"sd_model_checkpoint": "slow"},
        scheduler="Karras",
        sampler_name="DPM++ 2M",
    )
    assert (again.info["sd_model_name"], again.info["sampler_name"]) == ("slow", "DPM++ 2M Karras")
    assert webui.get_progress()["progress"] == 0


def test_the_web_uis_client_is_told_what_is_wrong(webui: webuiapi.WebUIApi) -> None:
    for wrong, says in (
        ({"sampler_name": "Magic"}, "sampler"),
        ({"width": 65}, "width"),
        ({"enable_hr": True}, "enable_hr"),
        ({"override_settings": {"sd_model_checkpoint": "x"}}, "no model named .*x"),
        ({"alwayson_scripts": {"roop": {"args": [True]}}}, "the extension roop is not supported"),
        (
            {"controlnet_units": [webuiapi.ControlNetUnit(image=Image.new("RGB", (8, 8)))]},
            "quick has no ControlNet",
        ),
    ):
        with pytest.raises(RuntimeError, match=says):
            webui.txt2img(prompt="a", **wrong)
    webui.session.auth = ("anybody", "farm_wrong")
    with pytest.raises(RuntimeError, match="401"):
        webui.txt2img(prompt="a")


# -- Replicate -------------------------------------------------------------------------------------------------


@pytest.fixture
def replica(api: Api) -> Iterator[Replicate]:
    replica = Replicate(api_token=api.key("replica"), base_url=api.address)
    yield replica
    replica._client.close()


def test_replicates_client_gets_pictures(replica: Replicate) -> None:
    found = replica.run("farm/quick", input={"prompt": "a red star", "num_outputs": 2, "seed": 5})
    assert [Image.open(io.BytesIO(one.read())).size for one in found] == [(64, 64)] * 2


def test_replicates_client_gets_pictures_that_take_longer_than_it_waits(replica: Replicate) -> None:
    # Slow takes five seconds: when the wait is over, the client must go on asking.
    found = replica.run("farm/slow", input={"prompt": "a red star"}, wait=1)
    assert [Image.open(io.BytesIO(one.read())).size for one in found] == [(64, 64)]


def test_replicates_client_follows_and_cancels_a_prediction(replica: Replicate) -> None:
    prediction = replica.predictions.create(version="slow", input={"prompt": "a"})
    assert prediction.status in ("starting", "processing")
    assert prediction.progress is not None
    cancelled = replica.predictions.cancel(prediction.id)
    assert cancelled.status == "canceled"
    again = replica.predictions.create(version="quick", input={"prompt": "b"})
    again.wait()
    assert again.status == "succeeded"
    assert again.metrics is not None
    assert again.metrics["predict_time"] > 0
    assert [one.id for one in replica.predictions.list()][:2] == [again.id, prediction.id]


def test_replicates_client_is_told_what_is_wrong(replica: Replicate) -> None:
    for version, fields, says in (
        ("nothing", {"prompt": "a"}, "version: .*'nothing'"),
        ("quick", {"prompt": "a", "width": 65}, "width"),
        ("quick", {"prompt": "a", "num_outputs": 0}, "num_outputs"),
    ):
        with pytest.raises(ReplicateError, match=says):
            replica.predictions.create(version=version, input=fields)


def test_what_would_not_happen_to_a_prediction_is_refused(api: Api) -> None:
    refused = httpx.post(
        f"{api.address}/v1/models/farm/quick/predictions",
        json={"input": {"prompt": "a"}},
        headers={"Authorization": f"Bearer {api.key('hasty')}", "Cancel-After": "1m"},
    )
    assert (refused.status_code, refused.json()["detail"][:13]) == (422, "Cancel-After:")
