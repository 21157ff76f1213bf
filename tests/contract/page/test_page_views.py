"""The page over HTTP: every view, and what prompts and labels cannot do to it."""

import hashlib
import io
import re
import time
import zipfile
from datetime import datetime
from functools import partial
from importlib.resources import files
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import insert, select

from scheduler.api import operators
from storage.database.connection import database_now
from storage.database.tables import quarantines
from storage.fleet.workers import JobProgress, NewWorker, WorkerActivity
from storage.renders.device_time import MOST_BATCHES, device_time
from storage.renders.views import RenderView
from storage.rules.faults import Fault
from tests.contract.page.visitors import ADMINS_VIEWS, VIEWS, Page, rendered, token, visitor
from tests.contract.stage import Stage
from tests.servers import eventually

#: As npm has it: version 2.0.11 of htmx.org.
HTMX_SHA256 = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"


ODD = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "a \u202eright-to-left\u202c star",
    "{{ 7 * 7 }} {% raw %}",
    "</textarea></title></style>",
    "a star & a &lt;moon&gt;",
)


def test_every_view_is_a_page_that_asks_nobody_else(ann: httpx.Client, admin: httpx.Client, stage: Stage) -> None:
    render = rendered(stage, ann)
    of_a_render = (f"/renders/{render}", f"/pictures/{render}-000000", f"/submit?from={render}-000000")
    for client, paths in ((ann, (*VIEWS, *of_a_render)), (admin, (*VIEWS, *ADMINS_VIEWS, *of_a_render))):
        for path in paths:
            answer = client.get(path)
            assert (path, answer.status_code) == (path, 200)
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            Page(answer.text).is_harmless()
            assert len(answer.content) < 100_000


def test_programs_still_get_the_welcome_at_the_first_address(stage: Stage) -> None:
    assert stage.keyless().get("/", headers={"Accept": "*/*"}).json()["documentation"] == "/docs"


@pytest.mark.parametrize("odd", ODD)
def test_what_people_write_stays_text(stage: Stage, ann: httpx.Client, odd: str) -> None:
    # Of a note, invisible characters are refused at the door.
    note = {} if "\u202e" in odd else {"note": odd}
    labels = {"onload": odd, odd: "x", "src": "javascript:alert(1)"}
    render = rendered(stage, ann, prompt=odd, labels=labels, custom_id=odd, **note)
    for path in (f"/renders/{render}", f"/pictures/{render}-000000", f"/submit?from={render}-000000"):
        page = Page(ann.get(path).text)
        page.is_harmless()
        assert odd in page.text or odd in [one.get("value") for _, one in page.elements]
    asked = ann.get(f"/renders/{render}", params={"prompt": odd[:100], "label": f"onload={odd}"})
    Page(asked.text).is_harmless()
    assert f"/pictures/{render}-000000" in asked.text


def test_pictures_are_found_by_state_prompt_model_label_and_seed(stage: Stage, ann: httpx.Client) -> None:
    body = {"prompt": ["a Red star", "a green 100% star"], "seed": 7, "n": 2}
    render = rendered(stage, ann, **body)

    def found(**asked: Any) -> list[int]:
        text = ann.get(f"/renders/{render}", params=asked).text
        return [int(index) for index in re.findall(rf'href="/pictures/{render}-(\d+)"', text)]

    assert found() == [0, 1, 2, 3]
    assert found(prompt="rED") == [0, 1]
    assert found(prompt="100%") == [2, 3]
    assert found(prompt="1_0%") == []
    assert found(state="done", model="tiny", prompt="", seed="", label="") == [0, 1, 2, 3]
    assert found(model="toy") == []
    assert found(seed="8") == [1]
    assert found(state="failed") == []
    assert found(duplicates="recipe") == found(number="score>=1") == []
    assert "No picture is like that" in ann.get(f"/renders/{render}?state=failed").text
    assert ann.get(f"/renders/{render}?state=nonsense").status_code == 422
    assert ann.get(f"/renders/{render}?colour=red").status_code == 422
    assert ann.get(f"/renders/{render}?label=nonsense").status_code == 422
    assert ann.get(f"/renders/{render}?duplicates=all").status_code == 422
    for nonsense in ("score", "score>1", ">=1", "score>=much", "score>=1e999", "score>=nan"):
        answer = ann.get(f"/renders/{render}", params={"number": nonsense})
        assert (answer.status_code, "expected NAME" in answer.text) == (422, True)


def test_thousands_of_pictures_come_in_pages(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, n=130)
    path: str | None = f"/renders/{render}"
    seen: list[int] = []
    while path is not None:
        text = ann.get(path).text
        seen += [int(index) for index in re.findall(rf'href="/pictures/{render}-(\d+)"', text)]
        following = re.search(r'id="next" href="([^"]+)"', text)
        path = following[1].replace("&amp;", "&") if following else None
    assert seen == list(range(130))
    last = ann.get(f"/renders/{render}?after=119").text
    assert "120 to 129 of 130 pictures" in last
    assert f'id="previous" href="/renders/{render}?after=59"' in last
    # From the second page, the page before is the first.
    assert 'id="previous"' not in ann.get(f"/renders/{render}?after=59").text
    assert 'id="range"' not in ann.get(f"/renders/{render}?state=failed").text


def test_a_render_shows_thumbnails_and_offers_its_archive(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, n=2)
    text = ann.get(f"/renders/{render}").text

    addresses = re.findall(r'<img src="([^"]+)"', text)
    assert len(addresses) == 2
    for address in addresses:
        assert Image.open(io.BytesIO(ann.get(address).content)).format == "WEBP"
    [archive] = re.findall(r'id="archive" href="([^"]+)"', text)
    with zipfile.ZipFile(io.BytesIO(ann.get(archive).content)) as pictures:
        assert sum(name.endswith(".png") for name in pictures.namelist()) == 2


def test_a_picture_whose_object_is_gone_and_a_render_that_is_deleted_say_so(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann)
    job = next(stage.context.views.jobs(render))
    stage.services.objects.delete(str(job.object))
    assert ann.get(f"/pictures/{render}-000000").status_code == 200
    assert ann.get(f"/pictures/{render}-000000/file").status_code == 404
    answer = ann.post(f"/renders/{render}/delete", data={"form_token": token(ann)})
    assert answer.headers["location"] == "/"
    assert "is deleted" in ann.get("/").text
    assert "is deleted" not in ann.get("/").text
    for path in (f"/renders/{render}", f"/pictures/{render}-000000"):
        answer = ann.get(path)
        assert answer.status_code == 404
        assert "<h1>Not Found</h1>" in answer.text
        assert "hx-refresh" not in answer.headers
        # A page that shows it, and looks again, is to say so as a whole.
        assert ann.get(path, headers={"HX-Request": "true"}).headers["hx-refresh"] == "true"


def test_two_tabs_that_hold_and_release_end_as_the_last_one_said(stage: Stage, ann: httpx.Client) -> None:
    stage.working.clear()
    try:
        render = stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny"}).json()["id"]
        data = {"form_token": token(ann)}

        def now() -> RenderView:
            return stage.context.views.render(render)

        for what, held in (("on-hold", True), ("on-hold", True), ("off-hold", False), ("off-hold", False)):
            assert ann.post(f"/renders/{render}/{what}", data=data).status_code == 303
            assert now().held is held
        # Released in one tab, it is not released once more by the other, and is not said to be.
        answer = ann.post(f"/renders/{render}/off-hold", data=data, follow_redirects=True)
        assert "Nothing of it was held: the render is" in answer.text
        priority = {**data, "priority": "bulk"}
        assert ann.post(f"/renders/{render}/priority", data=priority).status_code == 303
        assert "bulk" in ann.get(f"/renders/{render}").text
        # What was read a moment ago is shown to all.
        eventually(lambda: "1 picture left" in ann.get("/").text, "the front page tells of it")
        assert ann.post(f"/renders/{render}/cancel", data=data).status_code == 303
        assert (
            "Nothing was left to cancel" in ann.post(f"/renders/{render}/cancel", data=data, follow_redirects=True).text
        )
    finally:
        stage.working.set()


def test_what_is_left_is_told_in_time_and_by_owner_to_an_admin(
    stage: Stage, ann: httpx.Client, admin: httpx.Client
) -> None:
    rendered(stage, ann)
    stage.working.clear()
    try:
        body = {"prompt": "a star", "n": 3, "model": "tiny", "priority": "bulk"}
        render = stage.client().post("/v1/renders", json=body).json()["id"]
        [mine] = ann.get("/v1/backlog").json()
        assert (mine["owner"], mine["priority"], mine["models"], mine["pictures"]) == ("ann", "bulk", ["tiny"], 3)
        # Nobody serves it here.
        assert mine["seconds_left"] is None
        assert mine in [one | {"oldest_wait": mine["oldest_wait"]} for one in admin.get("/v1/backlog").json()]
        stage.context.jobs.cancel(render)
    finally:
        stage.working.set()


def test_workers_tell_what_they_do_and_how_idle_they_are(stage: Stage, ann: httpx.Client, admin: httpx.Client) -> None:
    crew = stage.context.workers
    crew.announce(NewWorker(name="w<1>", host="h", device="cpu:0", device_name="a <CPU>", pid=1, models=["tiny"]))
    stage.working.clear()
    try:
        body = {"prompt": "a star", "model": "tiny", "n": 2}
        render = stage.client().post("/v1/renders", json=body).json()["id"]
        claim = stage.services.jobs.claim(model="tiny", worker="w<1>", limit=2)
        assert claim is not None
        crew.beat("w<1>", WorkerActivity(state="rendering", model="tiny", pictures=0, batch=2))
        crew.progress(name="w<1>", jobs=[JobProgress(job.id, 1, 4) for job in claim.jobs])
        [told] = ann.get("/v1/workers").json()
        assert (told["steps"], told["idle_share"]) == ({"pictures": 2, "done": 2, "of": 8}, 1.0)
        page = Page(ann.get("/workers").text)
        page.is_harmless()
        assert "2 of 8 steps of 2 pictures" in page.text
        assert "100 %" in page.text
        stage.services.jobs.recover(claim.jobs, Fault.BAD_PICTURE, "all <black>")
        assert "2 of 8 steps" not in ann.get("/workers").text
        assert "all <black>" not in Page(ann.get("/workers").text).text
        for path in ("/workers", "/faults"):
            page = Page(admin.get(path).text)
            page.is_harmless()
            assert "all <black>" in page.text
            assert not [attributes for _, attributes in page.elements if attributes.get("class") == "said"]
        stage.context.jobs.cancel(render)
        kept_away(stage, "w<1>")
        page = Page(admin.get("/workers").text)
        assert "In quarantine for tiny" in page.text
        [address] = [str(one["action"]) for _, one in page.elements if "end-quarantine" in str(one.get("action"))]
        answer = admin.post(address, data={"form_token": token(admin)}, follow_redirects=True)
        assert "1 quarantine of w<1> ended." in Page(answer.text).text
        assert "In quarantine" not in answer.text
    finally:
        crew.forget("w<1>")
        stage.working.set()


def kept_away(stage: Stage, worker: str) -> None:
    with stage.services.database.write() as connection:
        now = connection.execute(select(database_now())).scalar_one()
        row = {"worker": worker, "model": "tiny", "since": now, "until": now + 600, "reason": "it <fell> over"}
        connection.execute(insert(quarantines).values(row))


def test_usage_tells_of_device_time_and_to_admins_of_limits(
    stage: Stage, ann: httpx.Client, admin: httpx.Client
) -> None:
    rendered(stage, ann)
    stage.new_key("gil", queued=1234)
    [mine] = ann.get("/v1/device-time").json()
    assert (mine["owner"], mine["pictures"] > 0, mine["seconds"] > 0) == ("ann", True, True)
    for asked, words in (("", "of the last hour"), ("?hours=24", "of the last 24 hours")):
        assert f"Device time {words}" in ann.get(f"/usage{asked}").text
        assert "Device-seconds" in ann.get(f"/usage{asked}").text
    assert ann.get("/usage?hours=721").status_code == 422
    assert mine["seconds"] <= admin.get("/v1/device-time?since=86400").json()[0]["seconds"]
    assert "1,234" in admin.get("/usage").text
    for hidden in ("1,234", "gil"):
        assert hidden not in ann.get("/usage").text
    with visitor(stage, "ben") as ben:
        assert "ann" not in Page(ben.get("/usage").text).text


def test_schedules_are_shown_paused_and_run(stage: Stage, ann: httpx.Client) -> None:
    body = {"name": "anns-own", "cron": "0 2 * * *", "render": {"prompt": "a <b>star</b>", "model": "tiny"}}
    assert stage.client().post("/v1/schedules", json=body).status_code == 201
    data = {"form_token": token(ann)}
    assert "a &lt;b&gt;star&lt;/b&gt;" in ann.get("/schedules/anns-own").text
    ann.post("/schedules/anns-own/stop", data=data)
    assert "paused" in ann.get("/schedules").text
    # Why it does not run, and what to press.
    assert "it is paused" in ann.get("/schedules").text
    assert 'aria-label="Resume anns-own"' in ann.get("/schedules").text
    ann.post("/schedules/anns-own/resume", data=data)
    assert "paused" not in ann.get("/schedules").text
    answer = ann.post("/schedules/anns-own/run", data=data)
    assert answer.headers["location"].startswith("/renders/")
    assert "fired" in ann.get("/schedules/anns-own").text
    with visitor(stage, "ben") as ben:
        assert ben.get("/schedules/anns-own").status_code == 404
        assert "anns-own" not in ben.get("/schedules").text


def test_htmx_is_the_one_that_npm_has_with_its_licence() -> None:
    folder = files("scheduler.api.page").joinpath("assets")
    assert hashlib.sha256(folder.joinpath("htmx.min.js").read_bytes()).hexdigest() == HTMX_SHA256
    assert "Zero-Clause BSD" in folder.joinpath("htmx.LICENSE").read_text()


def test_assets_are_those_that_pages_use(stage: Stage) -> None:
    for name in ("style.css", "live.js", "previews.js", "htmx.min.js", "icon.svg"):
        assert stage.keyless().get(f"/assets/{name}").status_code == 200
    for name in ("htmx.LICENSE", "../serving.py", "..%2Fserving.py", "x"):
        assert stage.keyless().get(f"/assets/{name}").status_code == 404


def test_usage_says_since_when_batches_are_read_where_there_are_too_many(
    stage: Stage, ann: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        rendered(stage, ann)
    assert "what is older is left out" not in ann.get("/usage").text
    assert "Read-Since" not in ann.get("/v1/device-time").headers
    monkeypatch.setattr(operators, "device_time", partial(device_time, most=1))
    assert "what is older is left out" in ann.get("/usage").text
    since = datetime.fromisoformat(ann.get("/v1/device-time").headers["Read-Since"])
    assert abs(since.timestamp() - time.time()) < 3600
    told = ann.get("/openapi.json").json()["paths"]["/v1/device-time"]["get"]["description"]
    assert f"{MOST_BATCHES:,} batches" in told
