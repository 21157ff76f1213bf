"""Previews: how a picture looks that is being denoised, for whoever may see it, by every way out of the farm."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis

from diffusion_farm import NotFoundProblem
from storage.broker.previews import KEPT_SECONDS, MOST_BYTES, WATCHED_SECONDS, Preview, Previews, open_previews
from storage.errors import BrokerProblem
from storage.settings import Settings
from tests.contract.previews import begun, previews_of, progress, shown, small, watched_stage
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually, free_port

# -- the carrier -----------------------------------------------------------------------------------------------


@pytest.fixture
def carrier(redis_url: str) -> Previews:
    return open_previews(Settings(broker_url=redis_url))


def test_a_preview_comes_as_it_was_left_and_a_later_one_takes_its_place(carrier: Previews) -> None:
    first = Preview(job="r-000000", attempt=1, step=3, steps=20, image=small())
    none = Preview(job="r-000001", attempt=2, step=1, steps=9, why_none="not known — «latents»")
    carrier.put([first, none])
    assert carrier.get(["r-000000", "r-000001", "r-000002"]) == {"r-000000": first, "r-000001": none}
    later = Preview(job="r-000000", attempt=1, step=4, steps=20, image=small("blue"))
    carrier.put([later])
    assert carrier.get(["r-000000"]) == {"r-000000": later}
    assert carrier.get([]) == {}


def test_who_watches_is_known_for_some_seconds(carrier: Previews) -> None:
    carrier.watch(["r", "s-000003"])
    assert carrier.watched(["r", "r-000001", "s", "s-000003"]) == {"r", "s-000003"}
    assert carrier.watched([]) == set()


def test_nothing_of_previews_stays_and_no_key_is_strange_or_large(carrier: Previews, redis_url: str) -> None:
    carrier.watch(["r"])
    carrier.put([Preview(job="r-000000", attempt=1, step=3, steps=20, image=small())])
    carrier.put([Preview(job="r-000001", attempt=1, step=3, steps=20, image=b"x" * MOST_BYTES)])
    with redis.Redis.from_url(redis_url) as client:
        left = {key: client.ttl(key) for key in client.scan_iter()}
    assert sorted(left) == [b"farm:preview.of.r-000000", b"farm:preview.watched.r"]
    assert 0 < left[b"farm:preview.watched.r"] <= WATCHED_SECONDS
    assert 0 < left[b"farm:preview.of.r-000000"] <= KEPT_SECONDS


def test_a_broker_that_is_away_is_named_without_its_password() -> None:
    away = open_previews(Settings(broker_url=f"redis://:secret@127.0.0.1:{free_port()}/0"))
    calls: tuple[Callable[[], object], ...] = (
        lambda: away.watch(["r"]),
        lambda: away.watched(["r"]),
        lambda: away.get(["r"]),
        lambda: away.put([]),
    )
    for call in calls[:3]:
        with pytest.raises(BrokerProblem) as problem:
            call()
        assert "secret" not in str(problem.value)


# -- over HTTP -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Stage]:
    with watched_stage(tmp_path_factory.mktemp("previews") / "home", redis_server) as stage:
        yield stage


def preview(stage: Stage, job: str, *, key: str | None = None, headers: Any = None) -> httpx.Response:
    return stage.client(key).get(f"/v1/jobs/{job}/preview", headers=headers)


def test_whoever_asks_is_a_watcher_and_gets_the_preview_with_its_step(stage: Stage) -> None:
    claim = begun(stage)
    [job] = claim.jobs
    before = preview(stage, job.name)
    assert (before.status_code, before.content, before.headers["retry-after"]) == (204, b"", "1")
    assert before.headers["preview-status"].startswith("running: asked for")
    assert previews_of(stage).watched([job.name]) == {job.name}

    shown(stage, claim, 3)
    answer = preview(stage, job.name)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, small(), "image/webp")
    assert (answer.headers["preview-step"], answer.headers["preview-steps"]) == ("3", "4")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "Authorization" in answer.headers["vary"]
    known = preview(stage, job.name, headers={"If-None-Match": answer.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    shown(stage, claim, 4)
    assert preview(stage, job.name, headers={"If-None-Match": answer.headers["etag"]}).status_code == 200

    stage.finish(claim)
    over = preview(stage, job.name)
    assert (over.status_code, over.json()["code"]) == (404, "no_preview")
    assert (
        f"is done: there are previews while it is rendered only; GET /v1/jobs/{job.name}/image" in over.json()["detail"]
    )


def test_the_client_of_the_farm_gets_previews_or_learns_that_there_are_none(stage: Stage) -> None:
    claim = begun(stage)
    name = claim.jobs[0].name
    assert stage.farm().preview(name) is None
    shown(stage, claim)
    assert stage.farm().preview({"id": name}) == small()
    stage.finish(claim)
    with pytest.raises(NotFoundProblem, match="is done"):
        stage.farm().preview(name)


def test_what_waits_says_so_and_what_was_cancelled_has_none(stage: Stage) -> None:
    render = stage.client().post("/v1/renders", json={"prompt": "a star"}).json()["id"]
    waits = preview(stage, f"{render}-000000")
    assert (waits.status_code, waits.headers["preview-status"]) == (204, "queued")
    stage.client().delete(f"/v1/renders/{render}")
    over = preview(stage, f"{render}-000000")
    assert (over.status_code, over.json()["code"]) == (404, "no_preview")
    assert "is cancelled" in over.json()["detail"]


def test_a_model_without_previews_says_why(stage: Stage) -> None:
    claim = begun(stage)
    shown(stage, claim, image=b"", why_none="it is not known how latents of the model tiny look")
    answer = preview(stage, claim.jobs[0].name)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_preview")
    assert answer.json()["detail"].endswith("has no previews: it is not known how latents of the model tiny look")
    stage.finish(claim)


def test_an_earlier_attempts_preview_is_none_of_a_later_one(stage: Stage) -> None:
    claim = begun(stage)
    [job] = claim.jobs
    previews_of(stage).put([Preview(job=job.name, attempt=job.attempt + 1, step=1, steps=4, image=small())])
    assert preview(stage, job.name).status_code == 204
    stage.finish(claim)


def test_nobody_sees_or_watches_what_is_not_theirs(stage: Stage) -> None:
    claim = begun(stage)
    [job] = claim.jobs
    shown(stage, claim)
    strange = preview(stage, job.name, key=stage.new_key("ben"))
    unknown = preview(stage, "nothing-000000")
    assert (strange.status_code, unknown.status_code) == (404, 404)
    assert strange.json()["code"] == unknown.json()["code"] == "not_found"
    assert strange.json()["detail"].replace(job.name, "X") == unknown.json()["detail"].replace("nothing-000000", "X")
    assert previews_of(stage).watched([job.name, "nothing-000000"]) == set()
    assert stage.keyless().get(f"/v1/jobs/{job.name}/preview").status_code == 401
    stage.finish(claim)


@pytest.mark.parametrize(("path", "status"), [("/v1/jobs/-/preview", 422), ("/v1/jobs/a-0/preview?k=7", 422)])
def test_what_an_address_does_not_read_is_refused(stage: Stage, path: str, status: int) -> None:
    assert stage.client().get(path).status_code == status


def test_without_a_broker_there_is_a_word_and_no_preview(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_stage(tmp_path_factory.mktemp("brokerless") / "home") as alone:
        alone.working.clear()
        [job] = begun(alone).jobs
        answer = preview(alone, job.name)
        assert (answer.status_code, answer.json()["code"]) == (404, "no_preview")
        assert "without a broker" in answer.json()["detail"]
        events = alone.client().get(f"/v1/renders/{job.render_id}/events?previews=true")
        assert (events.status_code, events.json()["detail"].partition(":")[0]) == (409, "previews")
        assert "previews=true" not in alone.client().get(f"/renders/{job.render_id}").text


# -- as events -------------------------------------------------------------------------------------------------


def test_a_follower_who_asks_for_previews_gets_them_as_events(stage: Stage) -> None:
    claim = begun(stage, 2)
    render = claim.jobs[0].render_id
    told: list[dict[str, Any]] = []
    others: list[str] = []

    def follow(query: str, hear: Callable[[str, dict[str, Any]], None]) -> None:
        with stage.client().stream("GET", f"/v1/renders/{render}/events{query}") as answer:
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    hear(kind, json.loads(line.removeprefix("data: ")))

    followers = [
        threading.Thread(target=follow, args=("?previews=true", lambda kind, data: told.append({"kind": kind} | data))),
        threading.Thread(target=follow, args=("", lambda kind, _: others.append(kind))),
    ]
    for one in followers:
        one.start()
    eventually(lambda: previews_of(stage).watched([render]) == {render}, "the render is watched")
    progress(stage, claim, 1)
    shown(stage, claim, 1)

    def seen(step: int) -> bool:
        return {one["id"] for one in told if one["kind"] == "preview" and one["step"] == step} == {
            job.name for job in claim.jobs
        }

    eventually(lambda: seen(1), "the first previews came")
    shown(stage, claim, 2)
    eventually(lambda: seen(2), "the second previews came")
    stage.finish(claim)
    for one in followers:
        one.join(60)
    previews = [one for one in told if one["kind"] == "preview"]
    assert {(one["render"], one["index"], one["steps"], one["media_type"]) for one in previews} == {
        (render, 0, 4, "image/webp"),
        (render, 1, 4, "image/webp"),
    }
    assert {base64.b64decode(one["b64_json"]) for one in previews} == {small()}
    # Each once, without a number, and none for whoever did not ask.
    assert len(previews) == 4
    assert "seq" not in previews[0]
    assert "preview" not in others
    assert others[-1] == "render.finished"
