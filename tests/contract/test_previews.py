"""Previews: how a picture looks that is being denoised, for whoever may see it, by every way out of the farm."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import redis
import webuiapi
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from storage.access.keys import Keys, Limits, Role
from storage.broker.previews import KEPT_SECONDS, MOST_BYTES, WATCHED_SECONDS, Preview, Previews, open_previews
from storage.broker.tickets import Tickets
from storage.errors import BrokerProblem
from storage.jobs.values import Claim
from storage.rules.faults import Fault
from storage.settings import Settings
from tests.contract.page_visitors import visitor
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually, free_port


def small(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), colour).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


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
    """A farm with a broker, whose worker is this file's: nothing is made unless a test does it."""
    tickets = Tickets(Settings(broker_url=redis_server))
    with running_stage(tmp_path_factory.mktemp("previews") / "home", tickets=tickets) as stage:
        stage.working.clear()
        yield stage


def previews_of(stage: Stage) -> Previews:
    assert stage.context.previews is not None
    return stage.context.previews


def begun(stage: Stage, n: int = 1) -> Claim:
    """A render that a worker has in hand."""
    stage.client().post("/v1/renders", json={"prompt": "a star", "n": n})
    return claimed(stage, n)


def claimed(stage: Stage, n: int = 1) -> Claim:
    claim = stage.services.jobs.claim(model="tiny", worker="by hand", limit=n)
    assert claim is not None
    assert len(claim.jobs) == n
    return claim


def shown(stage: Stage, claim: Claim, step: int = 1, **said: Any) -> None:
    """Leave previews of what a worker has in hand."""
    told = {"image": small(), **said}
    previews_of(stage).put(Preview(job=job.name, attempt=job.attempt, step=step, steps=4, **told) for job in claim.jobs)


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


def progress(stage: Stage, claim: Claim, done: int) -> None:
    """Note how far jobs are, as a worker's heartbeat does."""
    jobs = json.dumps([[job.id, done, 4] for job in claim.jobs])
    with stage.services.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM workers")
        connection.exec_driver_sql(
            "INSERT INTO workers (name, host, device, device_name, pid, models, state, batch, pictures, rate, "
            "started_at, seen_at, run, jobs) "
            "VALUES ('by hand', 'h', 'cpu:0', 'c', 1, '[]', 'rendering', 1, 0, 0, 0, 0, '', ?)",
            (jobs,),
        )


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


# -- OpenAI ----------------------------------------------------------------------------------------------------


class Streaming:
    """What OpenAI's client receives of a streamed request."""

    def __init__(self, stage: Stage, **asked: Any) -> None:
        self.events: list[Any] = []
        self.error: Exception | None = None
        self._stage = stage
        self._thread = threading.Thread(target=self._receive, args=(asked,))
        self._thread.start()

    def _receive(self, asked: dict[str, Any]) -> None:
        with openai.OpenAI(base_url=f"{self._stage.address}/v1", api_key=self._stage.key, max_retries=0) as client:
            try:
                with client.images.generate(prompt="a star", stream=True, **asked) as events:
                    for event in events:
                        self.events.append(event)
            except openai.APIError as error:
                self.error = error

    def claim(self, n: int = 1) -> Claim:
        eventually(lambda: self._stage.services.views.unfinished_jobs() >= n, "it is accepted")
        return claimed(self._stage, n)

    def joined(self) -> "Streaming":
        self._thread.join(60)
        return self


def size_of(event: Any) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(base64.b64decode(event.b64_json))) as picture:
        return picture.format, picture.size


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_openais_client_receives_partial_images_and_then_the_picture(stage: Stage, form: str, kind: str) -> None:
    streaming = Streaming(stage, partial_images=2, output_format=form, size="64x64")
    claim = streaming.claim()
    [job] = claim.jobs
    eventually(lambda: previews_of(stage).watched([job.render_id]), "it is watched")
    # Two of them, after a third and two thirds of the steps: the first comes too early.
    shown(stage, claim, 1)
    for step, n in ((2, 1), (3, 2)):
        shown(stage, claim, step)
        eventually(lambda n=n: len(streaming.events) == n, f"{n} were received")  # type: ignore[misc]
    stage.finish(claim)
    *partial, last = streaming.joined().events
    assert streaming.error is None
    assert all(isinstance(one, ImageGenPartialImageEvent) for one in partial)
    assert [(one.type, one.partial_image_index) for one in partial] == [
        ("image_generation.partial_image", 0),
        ("image_generation.partial_image", 1),
    ]
    assert isinstance(last, ImageGenCompletedEvent)
    assert last.usage.total_tokens == 0
    for one in (*partial, last):
        assert (one.size, one.output_format, one.background, one.quality) == ("64x64", form, "opaque", "auto")
        assert size_of(one) == (kind, (64, 64))


def test_previews_of_several_pictures_say_whose_they_are(stage: Stage) -> None:
    streaming = Streaming(stage, partial_images=1, n=2, extra_body={"seed": 7})
    claim = streaming.claim(2)
    shown(stage, claim, 2)
    eventually(lambda: len(streaming.events) == 2, "both were received")
    stage.finish(claim)
    events = streaming.joined().events
    assert [(one.type.rpartition(".")[2], one.index) for one in events] == [
        ("partial_image", 0),
        ("partial_image", 1),
        ("completed", 0),
        ("completed", 1),
    ]
    assert [one.seed for one in events[2:]] == [7, 8]


def test_a_stream_without_partial_images_watches_nothing(stage: Stage) -> None:
    streaming = Streaming(stage)
    claim = streaming.claim()
    shown(stage, claim, 2)
    stage.finish(claim)
    assert [one.type for one in streaming.joined().events] == ["image_generation.completed"]
    assert previews_of(stage).watched([claim.jobs[0].render_id]) == set()


def test_a_picture_that_fails_in_a_stream_is_an_error_of_its_client(stage: Stage) -> None:
    streaming = Streaming(stage, partial_images=1)
    claim = streaming.claim()
    stage.services.jobs.recover(claim.jobs, Fault.BAD_PICTURE, "the picture is not finite")
    assert "the picture is not finite" in str(streaming.joined().error)
    assert streaming.events == []


def test_a_key_that_is_revoked_ends_its_stream(stage: Stage) -> None:
    keys = Keys(stage.services.database)
    key, secret = keys.create(name="brief", owner="ann", role=Role.SUBMIT, limits=Limits())
    body = {"prompt": "a star", "stream": True, "partial_images": 1}
    with stage.client(secret).stream("POST", "/v1/images/generations", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        keys.revoke(key.id)
        text = answer.read().decode()
    assert text.startswith("event: error\ndata: ")
    assert "revoked" in text
    stage.finish(claimed(stage))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stream": True, "partial_images": 7}, "partial_images"),
        ({"stream": True, "partial_images": -1}, "partial_images"),
        ({"stream": True, "partial_images": "many"}, "partial_images"),
        ({"partial_images": 1}, "partial_images"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": True, "size": "65x64"}, "size"),
    ],
)
def test_what_cannot_be_streamed_is_refused_by_its_name_before_anything_is_accepted(
    stage: Stage, body: dict[str, Any], field: str
) -> None:
    before = stage.services.views.unfinished_jobs()
    answer = stage.client().post("/v1/images/generations", json={"prompt": "a star", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)
    assert stage.services.views.unfinished_jobs() == before


# -- the web UI ------------------------------------------------------------------------------------------------


def test_the_web_uis_client_sees_the_current_image_in_its_progress(stage: Stage) -> None:
    made = threading.Thread(target=stage.client().post, args=("/sdapi/v1/txt2img",), kwargs={"json": {"prompt": "a"}})
    made.start()
    webui = webuiapi.WebUIApi(baseurl=f"{stage.address}/sdapi/v1", username="any", password=stage.key)
    try:
        eventually(lambda: webui.get_progress()["state"]["job"], "it is waited for")
        claim = claimed(stage)
        [job] = claim.jobs
        assert webui.get_progress()["current_image"] is None
        assert previews_of(stage).watched([job.render_id]) == {job.render_id}
        shown(stage, claim)
        told = webui.get_progress()
        with Image.open(io.BytesIO(base64.b64decode(told["current_image"]))) as picture:
            assert (picture.format, picture.size) == ("PNG", (16, 8))
        silent = stage.client().get("/sdapi/v1/progress?skip_current_image=true").json()
        assert (silent["current_image"], silent["textinfo"]) == (None, None)
        shown(stage, claim, image=b"", why_none="not known")
        assert webui.get_progress()["textinfo"] == "no previews: not known"
    finally:
        webui.session.close()
    stage.finish(claim)
    made.join(60)
    assert stage.client().get("/sdapi/v1/progress").json()["current_image"] is None


# -- the page --------------------------------------------------------------------------------------------------


def test_pages_have_a_place_for_the_previews_of_what_runs(stage: Stage) -> None:
    claim = begun(stage)
    [job] = claim.jobs
    with visitor(stage, "ann") as browser:
        render, picture = (browser.get(path) for path in (f"/renders/{job.render_id}", f"/pictures/{job.name}"))
        assert f'data-events="/v1/renders/{job.render_id}/events?previews=true"' in render.text
        assert f'data-preview="{job.name}"' in render.text
        # On its own page a picture is asked for: there are no events.
        assert f'data-ask="/v1/jobs/{job.name}/preview"' in picture.text
        assert "data:" not in picture.headers["content-security-policy"]
        # Its login reads previews, too.
        shown(stage, claim)
        assert browser.get(f"/v1/jobs/{job.name}/preview").content == small()
        stage.finish(claim)
        assert "<canvas" not in browser.get(f"/pictures/{job.name}").text
