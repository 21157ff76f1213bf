"""Headers of answers: what is left of a key's limits, and which web pages may read them."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from scheduler.api.rate_limits import limits_left
from storage.access.keys import Limits
from storage.access.quotas import UNUSED, QuotaUsage
from storage.errors import BadSettings
from storage.renders.views import Views
from storage.settings import read_settings
from tests.contract.stage import Stage, running_stage

PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("headers") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def open_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Without keys, for one page."""
    with running_stage(
        tmp_path_factory.mktemp("pages") / "home", keyed=False, cors_origins=f"{PAGE}, http://localhost:5173"
    ) as stage:
        yield stage


def limits_of(answer: httpx.Response) -> tuple[str | None, str | None]:
    return answer.headers.get("RateLimit-Policy"), answer.headers.get("RateLimit")


def test_a_limited_key_is_told_its_limits_and_what_is_left(stage: Stage) -> None:
    stage.working.clear()
    try:
        client = stage.client(stage.new_key(per_minute=2, queued=10, per_day=100))
        first = client.post("/v1/renders", json={"prompt": "a star", "n": 3})
        assert limits_of(first) == (
            '"requests-per-minute";q=2;w=60, "unfinished-pictures";q=10;qu="pictures", '
            '"pictures-per-day";q=100;qu="pictures";w=86400',
            '"requests-per-minute";r=1, "unfinished-pictures";r=7, "pictures-per-day";r=97',
        )
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert client.post("/v1/renders", json={"prompt": "a star"}).status_code == 202
        refused = client.post("/v1/renders", json={"prompt": "a star"})
        assert refused.status_code == 429
        assert f'"requests-per-minute";r=0;t={refused.headers["retry-after"]}' in refused.headers["ratelimit"]
    finally:
        stage.working.set()


def test_a_refusal_says_the_same_in_both_headers_whichever_limit_it_is(stage: Stage) -> None:
    stage.working.clear()
    try:
        client = stage.client(stage.new_key(queued=2))
        client.post("/v1/renders", json={"prompt": "a star", "n": 2})
        refused = client.post("/v1/renders", json={"prompt": "a star"})
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["ratelimit"] == f'"unfinished-pictures";r=0;t={refused.headers["retry-after"]}'
    finally:
        stage.working.set()


def test_a_key_without_limits_is_told_of_none(stage: Stage) -> None:
    assert limits_of(stage.client().post("/v1/renders", json={"prompt": "a star"})) == (None, None)
    assert limits_of(stage.keyless().post("/v1/renders", json={"prompt": "a star"})) == (None, None)


def test_what_is_used_beyond_a_limit_leaves_nothing() -> None:
    # Such as of a key whose limits were lowered.
    used = QuotaUsage(unfinished=9, accepted_last_day=0, requests_last_minute=0)
    assert [(one.left, one.retry_seconds) for one in limits_left(Limits(queued=5), used)] == [(0, 30)]
    assert [one.state for one in limits_left(Limits(per_day=5), UNUSED)] == ['"pictures-per-day";r=5']


def test_openais_client_reads_the_headers_that_it_knows(stage: Stage) -> None:
    client = openai.OpenAI(base_url=f"{stage.address}/v1", api_key=stage.new_key(per_minute=5), max_retries=0)
    stage.held.callback(client.close)
    answer = client.images.with_raw_response.generate(prompt="a star")
    assert answer.headers["x-ratelimit-remaining-requests"] == "4"
    assert answer.headers["x-ratelimit-reset-requests"] == "60s"


def test_a_fault_of_the_farm_can_be_read_by_the_page_that_met_it(
    open_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(Views, "renders", broken)
    answer = open_stage.keyless().get("/v1/renders", headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, PAGE)


def preflight(stage: Stage, origin: str, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return stage.keyless().options("/v1/renders", headers=asked)


def test_no_page_may_read_the_api_unless_a_setting_names_it(stage: Stage) -> None:
    answer = stage.client().get("/v1/renders", headers={"Origin": PAGE})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert preflight(stage, PAGE).status_code == 405


def test_a_page_that_is_named_may_ask_and_read(open_stage: Stage) -> None:
    asked = preflight(open_stage, PAGE, headers="authorization, content-type, idempotency-key, x-stainless-lang")
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "access-control-allow-credentials" not in asked.headers
    assert "Origin" in asked.headers["vary"]
    assert asked.headers["x-request-id"]
    made = open_stage.keyless().post("/v1/renders", json={"prompt": "a star"}, headers={"Origin": PAGE})
    assert (made.status_code, made.headers["access-control-allow-origin"]) == (202, PAGE)
    assert "X-Request-ID" in made.headers["access-control-expose-headers"]
    wrong = open_stage.keyless().post("/v1/renders", json={"prompt": 1}, headers={"Origin": PAGE})
    assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (422, PAGE)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"]
)
def test_other_pages_may_not(open_stage: Stage, origin: str) -> None:
    asked = preflight(open_stage, origin)
    assert (asked.status_code, asked.headers.get("access-control-allow-origin")) == (400, None)
    refused = open_stage.keyless().get("/v1/renders", headers={"Origin": origin})
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_request")
    assert "access-control-allow-origin" not in refused.headers


def test_a_page_may_not_send_what_the_api_does_not_read(open_stage: Stage) -> None:
    assert preflight(open_stage, PAGE, method="TRACE").status_code == 400
    assert preflight(open_stage, PAGE, headers="x-whatever").status_code == 400


@pytest.mark.parametrize(
    "origin", ["*", "https://*.example.com", "https://app.example.com/", "app.example.com", "null"]
)
def test_only_exact_origins_can_be_set(origin: str) -> None:
    with pytest.raises(BadSettings, match="is not an origin; name each exactly as browsers do"):
        read_settings(cors_origins=f"{PAGE},{origin}")
