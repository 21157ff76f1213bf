"""Nothing of a request is passed over in silence, at any address: what is not read is refused by name."""

import gzip
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.stage import Stage, running_stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("unread") / "home") as stage:
        yield stage


def words(answer: Any) -> str:
    told = answer.json()
    return str(told["error"]["message"] if isinstance(told.get("error"), dict) else told["detail"])


def operations(stage: Stage) -> list[tuple[str, str, Any]]:
    """Method, path (its parameters filled in with anything) and description of every address."""
    paths = stage.client().get("/openapi.json").json()["paths"]
    return [
        (method.upper(), re.sub(r"\{\w+\}", "anything", path), told)
        for path, methods in paths.items()
        for method, told in methods.items()
    ]


def test_every_address_refuses_a_parameter_that_it_does_not_read(stage: Stage) -> None:
    found = operations(stage)
    assert len(found) > 60
    rooms = {"", "v1", "sdapi", "controlnet", "problems", "healthz", "readyz", "metrics"}
    assert {path.split("/")[1] for _, path, _ in found} == rooms
    for method, path, _ in found:
        answer = stage.client().request(method, path, params={"nonsense": 1})
        assert (method, path, answer.status_code) == (method, path, 422), answer.text
        assert words(answer) == "nonsense: unknown parameter; this address does not read it", path


def test_every_address_refuses_a_parameter_that_is_given_twice(stage: Stage) -> None:
    read = [
        (method, path, one["name"])
        for method, path, told in operations(stage)
        for one in told.get("parameters", ())
        if one["in"] == "query"
    ]
    assert len(read) > 8
    for method, path, name in read:
        answer = stage.client().request(method, path, params=[(name, "1"), (name, "2")])
        assert (path, answer.status_code) == (path, 422)
        assert words(answer) == f"{name}: a parameter that is given twice; give it once", path


def test_a_parameter_is_none_of_the_names_that_stand_elsewhere_in_a_request(stage: Stage) -> None:
    for query in ("Idempotency-Key=a", "prefer=wait", "priority=bulk"):
        answer = stage.client().post(f"/v1/renders?{query}", json={"prompt": "a star"})
        assert (query, answer.status_code) == (query, 422)
        assert words(answer).startswith(f"{query.partition('=')[0]}: unknown parameter")


def test_every_body_with_a_key_twice_is_refused_with_the_key_and_its_place(stage: Stage) -> None:
    read = [
        (method, path)
        for method, path, told in operations(stage)
        if "application/json" in told.get("requestBody", {}).get("content", {})
    ]
    assert len(read) > 7
    kind = {"Content-Type": "application/json"}
    for method, path in read:
        for body, place in (
            ('{"prompt": "a", "n": 2, "prompt": "b"}', "prompt"),
            ('{"x": [1, {"y": {"seed": 1,\n"seed": 2}}]}', "x.1.y.seed"),
        ):
            answer = stage.client().request(method, path, content=body, headers=kind)
            assert (path, answer.status_code) == (path, 422)
            assert words(answer) == f"{place}: duplicate key; give it once", path
    refused = stage.client().post("/v1/renders", content='{"prompt": "a", "prompt": "a"}', headers=kind).json()
    assert refused["errors"] == [{"field": "prompt", "message": "duplicate key; give it once"}]
    openai = stage.client().post("/v1/images/generations", content='{"n": 1, "n": 1}', headers=kind).json()
    assert openai["error"]["param"] == "n"


def test_a_field_of_a_form_that_is_unknown_or_doubled_is_refused(stage: Stage) -> None:
    file = {"file": ("a.txt", b"a star\n")}
    for data, says in (
        ({"purpose": ["manifest", "batch"]}, "purpose: a form field that is given twice; give it once"),
        ({"purpose": "manifest", "purposes": "batch"}, "purposes: unknown form field; did you mean purpose?"),
        ({"purpose": "manifest", "expires_after[anchor]": "created_at"}, "expires_after[anchor]: unknown form field"),
    ):
        answer = stage.client().post("/v1/files", files=file, data=data)
        assert (answer.status_code, words(answer)[: len(says)]) == (422, says)


def test_a_compressed_body_is_refused_with_the_encoding(stage: Stage) -> None:
    body, kind = b'{"prompt": "a star", "dry_run": true}', {"Content-Type": "application/json"}
    for encoding, content in (("gzip", gzip.compress(body)), ("br", body), ("deflate", body)):
        answer = stage.client().post("/v1/renders", content=content, headers={**kind, "Content-Encoding": encoding})
        assert (answer.status_code, f"Content-Encoding: {encoding}" in words(answer)) == (415, True)
    plain = stage.client().post("/v1/renders", content=body, headers={**kind, "Content-Encoding": "identity"})
    assert plain.status_code == 200


def test_an_address_that_is_asked_for_its_head_answers_as_for_all_of_it(stage: Stage) -> None:
    for path, status in (("/healthz", 200), ("/v1/renders", 200), ("/v1/renders?x=1", 422), ("/nowhere", 404)):
        head, whole = stage.client().head(path), stage.client().get(path)
        assert (path, head.status_code, head.content) == (path, status, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]


def test_a_wrong_method_is_told_all_the_right_ones(stage: Stage) -> None:
    answer = stage.client().put("/v1/renders", json={})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_a_wait_that_is_no_number_is_refused(stage: Stage) -> None:
    before = [render.id for render in stage.services.views.renders(owner="ann")]
    for path, body in (
        ("/v1/renders", {"prompt": "a star"}),
        ("/v1/predictions", {"version": "tiny", "input": {"prompt": "a"}}),
    ):
        answer = stage.client().post(path, json=body, headers={"Prefer": "wait=5s"})
        assert answer.status_code == 422
        assert words(answer) == "Prefer: wait=5s: the seconds must be a whole number, as in wait=5"
    assert [render.id for render in stage.services.views.renders(owner="ann")] == before


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/renders/UPPER", "render_id: must be of the right form: such as `k7m2p9x4tq8z` (given: 'UPPER')"),
        ("/v1/renders/k7m2p9x4tq8z-000001/jobs", "render_id: must be of the right form: such as `k7m2p9x4tq8z` (given"),
        ("/v1/jobs/k7m2p9x4tq8z", "job_id: must be of the right form: such as `k7m2p9x4tq8z-000012` (given"),
        ("/v1/predictions?cursor=cD0y", "cursor: must be of the right form: as in `next` or `previous` of a page"),
        ("/v1/batches/x", "batch_id: must be of the right form: as returned by POST /v1/batches (given: 'x')"),
    ],
)
def test_a_name_that_cannot_be_one_is_told_what_one_looks_like(stage: Stage, path: str, says: str) -> None:
    answer = stage.client().get(path)
    assert (answer.status_code, words(answer)[: len(says)]) == (422, says)


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json", None])
def test_a_file_that_is_not_sent_as_a_form_is_told_how(stage: Stage, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = stage.client().post("/v1/files", content=b"{}", headers=headers)
    assert (answer.status_code, "as multipart/form-data, in the field file" in words(answer)) == (415, True)
    assert stage.client().post("/v1/files", files={"other": b"x"}).status_code == 422


def test_a_header_that_decides_is_given_once(stage: Stage) -> None:
    for name in ("Idempotency-Key", "Prefer"):
        headers = [(name, "wait=1"), (name, "wait=2")]
        answer = stage.client().post("/v1/renders", json={"prompt": "a star"}, headers=headers)
        assert (answer.status_code, words(answer)) == (422, f"{name}: a header that is given twice; give it once")
