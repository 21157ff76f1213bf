"""Previews for other people's clients, and on the page: OpenAI's streams, the web UI's progress."""

import base64
import io
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import openai
import pytest
import webuiapi
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from storage.access.keys import Keys, Limits, Role
from storage.broker.previews import Preview, Previews
from storage.jobs.values import Claim
from storage.rules.faults import Fault
from tests.contract.page.visitors import visitor
from tests.contract.previews import begun, claimed, previews_of, shown, small, watched_stage
from tests.contract.stage import Stage
from tests.servers import eventually


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Stage]:
    with watched_stage(tmp_path_factory.mktemp("previews") / "home", redis_server) as stage:
        yield stage


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


def test_previews_of_all_streams_are_asked_for_together(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []
    get = Previews.get

    def noted(previews: Previews, jobs: Collection[str]) -> Mapping[str, Preview]:
        asked.append(set(jobs))
        return get(previews, jobs)

    streams = [Streaming(stage, partial_images=3) for _ in range(3)]
    claim = streams[0].claim(3)
    jobs = {job.name for job in claim.jobs}
    assert len({job.render_id for job in claim.jobs}) == 3
    monkeypatch.setattr(Previews, "get", noted)
    eventually(lambda: jobs in asked, "all are asked for at once")
    asked.clear()
    eventually(lambda: len(asked) > 2, "it is asked again")
    assert all(one == jobs for one in asked)
    stage.finish(claim)
    assert [len(one.joined().events) for one in streams] == [1, 1, 1]


@pytest.mark.parametrize("asked", [{}, {"partial_images": 0}])
def test_a_stream_without_partial_images_watches_nothing(stage: Stage, asked: dict[str, int]) -> None:
    streaming = Streaming(stage, **asked)
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


def test_a_render_that_is_cancelled_midway_is_an_error_of_its_client_after_what_was_shown(stage: Stage) -> None:
    streaming = Streaming(stage, partial_images=3, n=1)
    claim = streaming.claim()
    [job] = claim.jobs
    eventually(lambda: previews_of(stage).watched([job.render_id]), "it is watched")
    shown(stage, claim, 2)
    eventually(lambda: streaming.events, "one was received")
    assert stage.client().delete(f"/v1/renders/{job.render_id}").is_success
    (*partial,) = streaming.joined().events
    assert partial
    assert {one.type for one in partial} == {"image_generation.partial_image"}
    assert "cancelled" in str(streaming.error)


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
        assert re.search(rf'data-events="/v1/renders/{job.render_id}/events\?after=\d+&amp;previews=true"', render.text)
        assert f'data-preview="{job.name}"' in render.text
        # On its own page a picture is asked for: there are no events.
        assert f'data-ask="/pictures/{job.name}/preview"' in picture.text
        assert "data:" not in picture.headers["content-security-policy"]
        # Its login reads previews, too.
        shown(stage, claim)
        for path in (f"/v1/jobs/{job.name}/preview", f"/pictures/{job.name}/preview"):
            assert browser.get(path).content == small()
        stage.finish(claim)
        over = browser.get(f"/pictures/{job.name}/preview")
        assert (over.status_code, over.headers.get("retry-after")) == (204, None)
        assert "<canvas" not in browser.get(f"/pictures/{job.name}").text
