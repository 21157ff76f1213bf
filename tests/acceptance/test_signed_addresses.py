"""Signed addresses open pictures without a key: whoever reads a log, or an error, must not find one there."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.acceptance.api import finished, running_api
from tests.forks import Starter
from tests.servers import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(params=["folder", "moto_server"])
def store(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Where objects are, as settings say it."""
    if request.param == "folder":
        return {}
    server: S3Server = request.getfixturevalue("moto_server")
    return {
        "FARM_OBJECTS_URL": f"s3://{server.create_bucket()}",
        "FARM_S3_ENDPOINT_URL": server.endpoint_url,
        **server.environment,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_log_says_a_signature_however_much_is_logged(
    tmp_path: Path, starter: Starter, store: Mapping[str, str], log_format: str
) -> None:
    settings = {"FARM_LOG_LEVEL": "debug", "FARM_LOG_FORMAT": log_format, **store}
    with running_api(tmp_path, starter, **settings) as api, httpx.Client(base_url=api.address, timeout=90) as client:
        body = {"prompt": "a star", "model": "quick", "response_format": "url"}
        png = client.post("/v1/images/generations", json=body).json()["data"][0]["url"]
        jpeg = client.post("/v1/images/generations", json={**body, "output_format": "jpeg"}).json()["data"][0]["url"]
        render = client.post("/v1/renders", json={"prompt": "a star", "model": "quick"}).json()["id"]
        finished(client, render)
        image = client.get(f"/v1/jobs/{render}-000000/image")
        addresses = [httpx.URL(one) for one in (png, jpeg, image.headers.get("location", png))]
        assert [httpx.get(address, timeout=60).status_code for address in addresses] == [200] * 3
        signatures = {
            value for address in addresses for name, value in address.params.items() if "signature" in name.lower()
        }
        assert len(signatures) >= 2
        # What goes wrong is logged, too: at the API's own addresses.
        ours = httpx.URL(jpeg)
        wrong = [
            client.get(ours.copy_set_param("until", 1)),
            client.get(ours.copy_set_param("until", "soon")),
            client.get(ours.copy_add_param("signature", "twice")),
            client.get(ours.copy_set_param("format", "gif")),
            client.delete(ours),
            client.head(ours),
            client.get(ours.copy_with(path="/nowhere")),
        ]
        assert [answer.status_code for answer in wrong] == [404, 422, 422, 422, 405, 200, 404]
        assert not [answer.text for answer in wrong if any(signature in answer.text for signature in signatures)]
    logs = [file for file in (*tmp_path.rglob("*.err"), *tmp_path.rglob("*.log")) if file.stat().st_size]
    said = "\n".join(file.read_text(errors="replace") for file in logs)
    assert f"GET {ours.path}?…" in said, "its path is there"
    assert not [signature for signature in signatures if signature in said]
