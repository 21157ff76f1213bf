"""Clients that nobody here wrote, unchanged, against `farm api`."""

import base64
import io
from collections.abc import Iterator

import httpx
import openai
import pytest
from PIL import Image

from tests.acceptance.api import Api


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
    assert [one.seed for one in answer.data] == [5, 6]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_pictures_come_in_the_format_asked_for(client: openai.OpenAI, form: str, kind: str) -> None:
    answer = client.images.generate(prompt="a", output_format=form, response_format="b64_json")  # type: ignore[call-overload]
    assert picture(answer.data[0].b64_json).format == kind


def test_a_name_of_openais_means_the_default_model(client: openai.OpenAI) -> None:
    assert client.images.generate(model="gpt-image-1", prompt="a").data
    assert [model.id for model in client.models.list()] == ["quick", "slow"]


def test_a_client_that_loses_patience_and_tries_again_starts_one_render(api: Api) -> None:
    key = api.key("impatient")
    with openai.OpenAI(base_url=f"{api.address}/v1", api_key=key, timeout=1, max_retries=8) as client:
        answer = client.images.generate(model="slow", prompt="a slow star")
    assert answer.data is not None
    assert picture(answer.data[0].b64_json).size == (64, 64)
    renders = httpx.get(f"{api.address}/v1/renders", headers={"Authorization": f"Bearer {key}"}).json()["renders"]
    assert [render["total"] for render in renders] == [1]


def test_errors_are_those_that_its_users_know(client: openai.OpenAI, api: Api) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="width") as wrong:
        client.images.generate(prompt="a", size="65x64")
    assert wrong.value.param == "width"
    with pytest.raises(openai.UnprocessableEntityError, match="none is registered as 'nothing'"):
        client.images.generate(model="nothing", prompt="a")
    with (
        openai.OpenAI(base_url=f"{api.address}/v1", api_key="farm_wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.images.generate(prompt="a")
