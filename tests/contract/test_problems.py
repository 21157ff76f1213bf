"""What goes wrong, for programs: stable codes whose addresses describe them, and the id of each request."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from scheduler.api.problem_kinds import KINDS, ProblemCode
from storage.errors import DatabaseProblem
from storage.process.logs import JsonFormatter, TextFormatter
from storage.renders.followed import Followed
from storage.renders.views import Views
from tests.contract.stage import Stage, running_stage

MADE = re.compile(r"req_[0-9a-f]{24}")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("problems") / "home") as stage:
        yield stage


def openais(stage: Stage) -> openai.OpenAI:
    client = openai.OpenAI(base_url=f"{stage.address}/v1", api_key=stage.key, max_retries=0)
    return stage.held.enter_context(client)


def test_every_code_has_a_kind_and_an_address_that_describes_it(stage: Stage) -> None:
    assert KINDS.keys() == set(ProblemCode)
    listed = stage.keyless().get("/problems").json()
    assert [one["code"] for one in listed] == list(ProblemCode)
    for one in listed:
        assert stage.keyless().get(one["type"]).json() == one
    assert stage.keyless().get("/problems/whatever").json()["code"] == "invalid_field"


@pytest.mark.parametrize(
    ("method", "path", "parts", "status", "code"),
    [
        ("GET", "/v1/renders/zzz", {}, 404, "not_found"),
        ("GET", "/v1/nowhere", {}, 404, "no_such_address"),
        ("POST", "/v1/trainings", {"json": {}}, 404, "not_supported"),
        ("PUT", "/v1/renders", {}, 405, "method_not_allowed"),
        (
            "POST",
            "/v1/renders",
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
            400,
            "malformed_body",
        ),
        ("POST", "/v1/renders?x=1", {"content": b"{}"}, 415, "unsupported_media_type"),
        ("POST", "/v1/renders", {"json": {"prompt": "a", "n": 0}}, 422, "invalid_field"),
        ("POST", "/v1/renders", {"json": {"prompt": "a", "model": "no"}}, 422, "invalid_field"),
        ("GET", "/v1/pictures/abc-000000?until=1&signature=x", {}, 404, "signed_url_invalid"),
    ],
)
def test_a_problem_has_a_code_an_address_and_the_requests_id(
    stage: Stage, method: str, path: str, parts: dict[str, Any], status: int, code: str
) -> None:
    answer = stage.client().request(method, path, **parts)
    told = answer.json()
    assert (answer.status_code, told["code"], told["type"]) == (status, code, f"/problems/{code}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert MADE.fullmatch(told["request_id"])
    assert told["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("key", "code"), [(None, "api_key_required"), ("Bearer farm_nobody", "invalid_api_key")], ids=["none", "wrong"]
)
def test_a_caller_without_a_key_learns_whether_it_was_missing_or_wrong(
    stage: Stage, key: str | None, code: str
) -> None:
    answer = stage.keyless().get("/v1/renders", headers={} if key is None else {"Authorization": key})
    assert (answer.status_code, answer.json()["code"]) == (401, code)


def test_what_is_not_read_is_refused_before_what_is_wrong_in_it(stage: Stage) -> None:
    for path in ("/v1/renders/zzz-not-an-id?priority=never", "/v1/renders/abc?priority=never"):
        broken = stage.client().patch(path, content=b"{", headers={"Content-Type": "application/json"})
        assert broken.status_code == 400
        other = stage.client().patch(path, content=b"<a/>", headers={"Content-Type": "text/xml"})
        assert other.status_code == 415


def test_openais_errors_have_the_code_and_openais_client_reads_it(stage: Stage) -> None:
    client = openais(stage)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="a star", size="1x1")
    assert (refused.value.code, refused.value.type) == ("invalid_field", "invalid_request_error")
    assert MADE.fullmatch(str(refused.value.request_id))
    with pytest.raises(openai.AuthenticationError) as away:
        client.with_options(api_key="farm_nobody").images.generate(prompt="a star")
    assert away.value.code == "invalid_api_key"


def test_edits_and_variations_say_in_openais_words_that_pictures_are_made_from_text(stage: Stage) -> None:
    client = openais(stage)
    with pytest.raises(openai.NotFoundError) as edit:
        client.images.edit(image=b"\x89PNG", prompt="a hat on it")
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(openai.NotFoundError) as variation:
        client.images.create_variation(image=b"\x89PNG")
    for refused in (edit.value, variation.value):
        assert refused.code == "not_supported"
        assert "pictures are made from text alone; POST /v1/images/generations" in str(refused)


@pytest.mark.parametrize("name", ["", "a b", "str", "list", "ümläut", "1", "a.b"])
def test_an_unknown_field_of_any_name_is_refused(stage: Stage, name: str) -> None:
    for path, body in (
        ("/v1/renders", {"prompt": "a star"}),
        ("/v1/images/generations", {"prompt": "a star"}),
        ("/v1/schedules", {"name": "x", "cron": "@yearly", "render": {"prompt": "a star"}}),
    ):
        answer = stage.client().post(path, json={**body, name: 1})
        assert (path, answer.status_code) == (path, 422)
        assert f"{name or 'specification'}: unknown field" in answer.text
    inner = {"name": "x", "cron": "@yearly", "render": {"prompt": "a star", name: 1}}
    assert stage.client().post("/v1/schedules", json=inner).status_code == 422


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "a/b?c=d&e"])
def test_a_callers_request_id_is_kept(stage: Stage, given: str) -> None:
    for path in ("/healthz", "/v1/renders", "/nowhere"):
        assert stage.client().get(path, headers={"X-Request-ID": given}).headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "\xe9"])
def test_a_request_id_that_is_not_fit_for_a_log_is_replaced(stage: Stage, given: str) -> None:
    answer = stage.client().get("/healthz", headers={b"X-Request-ID": given.encode("latin-1")})
    assert MADE.fullmatch(answer.headers["x-request-id"])


def test_a_request_id_that_is_given_twice_is_replaced(stage: Stage) -> None:
    answer = stage.client().get("/healthz", headers=httpx.Headers([("X-Request-ID", "a"), ("X-Request-ID", "b")]))
    assert MADE.fullmatch(answer.headers["x-request-id"])


@contextmanager
def logged(name: str) -> Iterator[list[tuple[str, str]]]:
    """The lines of a logger, as text and as JSON."""
    lines: list[tuple[str, str]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((TextFormatter("api").format(record), JsonFormatter("api").format(record)))

    log, kept = logging.getLogger(name), Kept()
    log.addHandler(kept)
    try:
        yield lines
    finally:
        log.removeHandler(kept)


def test_what_is_done_for_all_who_wait_is_logged_under_nobodys_id(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseProblem("the database is away")

    stage.working.clear()
    monkeypatch.setattr(Followed, "unfinished", away)
    try:
        with logged("scheduler.api.waiting.shared_reader") as lines:
            headers = {"X-Request-ID": "waits-1", "Prefer": "wait=1"}
            assert stage.client().post("/v1/renders", json={"prompt": "a star"}, headers=headers).status_code == 202
    finally:
        stage.working.set()
    assert [text.partition("api: ")[2] for text, _ in lines] == [
        "callers wait until the database answers: the database is away"
    ]


def test_a_fault_of_the_farm_is_answered_with_its_id_which_stands_in_the_log(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(Views, "renders", broken)
    with logged("scheduler.api.problems") as lines:
        answer = stage.client().get("/v1/renders", headers={"X-Request-ID": "mine-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == ("mine-1", "mine-1")
    [(text, line)] = lines
    assert "request_id=mine-1" in text
    assert json.loads(line)["request_id"] == "mine-1"


def test_the_first_address_leads_on(stage: Stage) -> None:
    told = stage.keyless().get("/").json()
    assert told["name"] == "Diffusion Farm"
    for name in ("documentation", "openapi", "problems"):
        assert stage.keyless().get(told[name]).status_code == 200
    browser = stage.keyless().get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (browser.status_code, browser.headers["location"]) == (303, "/login")


#: Half of a character, as JSON escapes it.
_HALF = r'"\ud800"'


def test_half_of_a_character_is_refused_at_every_door_and_quoted(stage: Stage) -> None:
    bodies: list[str | bytes] = [
        f"{{{_HALF}: 1}}",
        f"[{_HALF}]",
        f'{{"prompt": {_HALF}, "seed": {{"a": {_HALF}}}}}',
        f'{{"prompt": "a", "model": {_HALF}, "override_settings": {{{_HALF}: {_HALF}}}}}',
        # Whole but for a field that only the database would find wrong.
        f'{{"input_file_id": {_HALF}, "endpoint": "/v1/images/generations"}}',
        f'{{"prompt": "a", "idempotency_key": {_HALF}}}'.encode("utf-16"),
    ]
    paths = stage.keyless().get("/openapi.json").json()["paths"]
    doors = [(method, path) for path in paths for method in paths[path] if method in ("post", "put", "patch")]
    assert len(doors) > 10
    quoted = 0
    for method, path in doors:
        for body in bodies:
            answer = stage.client().request(
                method, re.sub(r"{.*?}", "x", path), content=body, headers={"Content-Type": "application/json"}
            )
            assert 400 <= answer.status_code < 500, (method, path, body, answer.text)
            assert answer.json()
            quoted += r"\ud800" in answer.text
    assert quoted


_HALF_WITHIN = r'{"input_file_id": "a", "metadata": {"b": ["c", "d%s"]}}'


@pytest.mark.parametrize(
    "body",
    [
        (_HALF_WITHIN % r"\udfff").encode(),
        (_HALF_WITHIN % r"\uDfFf").encode(),
        (_HALF_WITHIN % "\udfff").encode("utf-8", "surrogatepass"),
        (_HALF_WITHIN % "\udfff").encode("utf-16", "surrogatepass"),
        (_HALF_WITHIN % "\udfff").encode("utf-32", "surrogatepass"),
    ],
    ids=["escaped", "escaped in capitals", "bytes", "UTF-16", "UTF-32"],
)
def test_half_of_a_character_is_told_by_its_place(stage: Stage, body: bytes) -> None:
    answer = stage.client().post("/v1/batches", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "metadata.b.1: must be text without halves of characters" in answer.json()["error"]["message"]


def test_pairs_of_halves_are_a_character(stage: Stage) -> None:
    body = r'{"prompt": "a \ud83d\ude00"}'
    answer = stage.client().post("/v1/renders", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (201, 202)
