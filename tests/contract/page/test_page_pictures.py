"""What became of a picture, and a render's pictures in a grid, over HTTP."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from storage.database.connection import Database
from storage.database.tables import jobs
from storage.rules.faults import Fault
from tests.contract.page.visitors import Page, rendered, token, visitor
from tests.contract.renders import complete
from tests.contract.stage import Stage, running_stage


def of_page(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    Page(answer.text).is_harmless()
    return answer.text


def failed(stage: Stage, message: str) -> str:
    """A render whose picture has failed with this message, after an attempt that counted."""
    stage.working.clear()
    try:
        answer = stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny"})
        render_id = str(answer.json()["id"])
        for fault in (Fault.WORKER_DIED, Fault.BAD_PICTURE):
            claim = stage.services.jobs.claim(model="tiny", worker="w<1>", limit=8)
            assert claim is not None
            stage.services.jobs.recover(claim.jobs, fault, message)
    finally:
        stage.working.set()
    return render_id


def test_a_picture_tells_when_it_was_made_beside_which_others_and_for_how_long(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, n=3)
    text = of_page(ann.get(f"/pictures/{render}-000001"))
    assert "3 pictures by by hand: 1.0 s of its device" in text
    assert re.findall(rf'href="/pictures/{render}-(\d+)">{render}', text) == ["000000", "000002"]
    told = ann.get(f"/v1/jobs/{render}-000001/history").json()
    assert (told["attempt"], told["max_attempts"], told["faults"]) == (1, 3, [])
    assert told["batch"]["jobs"] == [f"{render}-00000{n}" for n in range(3)]
    assert (told["batch"]["pictures"], told["batch"]["device_seconds"]) == (3, 1.0)
    assert told["submitted_at"] <= told["started_at"] <= told["finished_at"]


def test_a_picture_tells_what_each_attempt_met(stage: Stage, ann: httpx.Client) -> None:
    render = failed(stage, "it <b>fell</b> over")
    text = of_page(ann.get(f"/pictures/{render}-000000"))
    assert "2 faults" in text
    assert text.count("it &lt;b&gt;fell&lt;/b&gt; over") == 3
    told = ann.get(f"/v1/jobs/{render}-000000/history").json()
    assert [(one["fault"], one["worker"]) for one in told["faults"]] == [
        ("bad picture", "w<1>"),
        ("worker died", "w<1>"),
    ]
    assert told["batch"] is None
    with visitor(stage, "ben") as ben:
        assert ben.get(f"/v1/jobs/{render}-000000/history").status_code == 404


def test_a_batch_names_no_picture_of_another_owner(stage: Stage, ann: httpx.Client) -> None:
    stage.working.clear()
    try:
        mine = str(stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny"}).json()["id"])
        key = stage.new_key("ben")
        theirs = str(stage.client(key).post("/v1/renders", json={"prompt": "a star", "model": "tiny"}).json()["id"])
        assert stage.complete("tiny") == 2
    finally:
        stage.working.set()
    told = ann.get(f"/v1/jobs/{mine}-000000/history").json()
    assert (told["batch"]["pictures"], told["batch"]["jobs"]) == (2, [f"{mine}-000000"])
    assert theirs not in of_page(ann.get(f"/pictures/{mine}-000000"))


def test_a_picture_whose_file_is_gone_says_so(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann)
    assert 'id="lost"' not in ann.get(f"/pictures/{render}-000000").text
    stage.services.objects.delete(str(next(stage.context.views.jobs(render)).object))
    text = of_page(ann.get(f"/pictures/{render}-000000"))
    assert "file is gone from the store" in text
    assert f"/pictures/{render}-000000/file" not in text


def test_a_picture_is_told_of_while_the_store_is_away(tmp_path: Path) -> None:
    away: dict[str, Any] = {"objects_url": "s3://pictures", "s3_endpoint_url": "http://127.0.0.1:1"}
    with running_stage(tmp_path / "home", **away) as stage, visitor(stage, "ann") as ann:
        stage.working.clear()
        render = stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny"}).json()["id"]
        claim = stage.services.jobs.claim(model="tiny", worker="w1", limit=1)
        assert claim is not None
        complete(stage.services.jobs, claim)
        text = of_page(ann.get(f"/pictures/{render}-000000"))
        assert "a star" in text
        assert 'id="lost"' not in text
        assert ann.get(f"/pictures/{render}-000000/file").status_code == 503


def test_a_render_of_combinations_offers_a_grid_of_what_differs(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, seed=5, product={"num_inference_steps": [2, 3], "guidance_scale": [1.5, 4.0, 5.0]})
    text = of_page(ann.get(f"/renders/{render}"))
    assert "As a grid by steps and guidance" in Page(text).text
    [address] = re.findall(r'id="grid" href="([^"]+)"', text)
    text = of_page(ann.get(address))
    page = Page(text)
    assert "Columns: steps; rows: guidance" in page.text or "Columns: guidance; rows: steps" in page.text
    assert len(re.findall(r'<img src="/v1/jobs/', text)) == 6
    assert len([tag for tag, attributes in page.elements if tag == "th" and attributes.get("scope") == "row"]) in (2, 3)
    # Named the other way round, each cell has the picture of its row and column.
    text = of_page(ann.get(address, params={"x": "guidance", "y": "steps"}))
    rows = text.split("<tbody>")[1].split("</tr>")
    found = [re.findall(rf'href="/pictures/{render}-(\d+)"', row) for row in rows]
    specs = {job.index: job.spec for job in stage.context.views.jobs(render)}
    seen = [[(specs[int(n)].num_inference_steps, specs[int(n)].guidance_scale) for n in row] for row in found if row]
    assert seen == [[(steps, guidance) for guidance in (1.5, 4.0, 5.0)] for steps in (2, 3)]
    [image] = re.findall(r'id="image" href="([^"]+)"', text)
    assert ann.get(image.replace("&amp;", "&")).headers["content-type"] == "image/png"


def test_a_grid_says_what_its_axes_can_be_where_that_is_not_clear(stage: Stage, ann: httpx.Client) -> None:
    odd = '"><b>&{{ 1 }}'
    render = rendered(stage, ann, prompt=[odd, "a moon"], labels={odd: "x"})
    text = of_page(ann.get(f"/renders/{render}/grid"))
    assert odd in Page(text).text
    answer = ann.get(f"/renders/{render}/grid", params={"x": odd, "y": "colour"})
    assert answer.status_code == 422
    assert "o picture has a field or label &#39;colour&#39;" in answer.text
    Page(answer.text).is_harmless()
    seeds = rendered(stage, ann, n=3)
    text = of_page(ann.get(f"/renders/{seeds}/grid"))
    assert "he pictures differ in their seeds alone" in text
    assert len(re.findall(r"<img", of_page(ann.get(f"/renders/{seeds}/grid?x=seed")))) == 3
    assert ann.get(f"/renders/{seeds}/grid?x=seed&colour=red").status_code == 422
    with visitor(stage, "ben") as ben:
        assert ben.get(f"/renders/{seeds}/grid").status_code == 404


def test_a_grid_shows_what_is_missing_or_failed_as_such(stage: Stage, ann: httpx.Client) -> None:
    fields = {"num_inference_steps": [2, 3, 3], "guidance_scale": [2.0, 2.0, 4.0]}
    render = rendered(stage, ann, zip=fields, prompt="a star", seed=9)
    job = next(stage.context.views.jobs(render))
    fell(stage.services.database, job.row_id)
    text = of_page(ann.get(f"/renders/{render}/grid"))
    assert text.count("not in the render") == 1
    assert '<span class="noimage failed">failed</span>' in text
    assert len(re.findall(r"<img", text)) == 2
    ann.post(f"/renders/{render}/delete", data={"form_token": token(ann)})


def fell(database: Database, row_id: int) -> None:
    """Have a picture look as if it had failed."""
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == row_id).values(state="failed", error="it fell over"))


def test_long_texts_that_scroll_are_reached_by_the_keyboard(stage: Stage, ann: httpx.Client) -> None:
    def scrolling(**asked: Any) -> int:
        text = of_page(ann.get(f"/pictures/{rendered(stage, ann, **asked)}-000000"))
        return len(re.findall(r'<dd class="text" tabindex="0">', text))

    assert scrolling(prompt="a star") == 0
    assert scrolling(prompt="a star " * 100) == 1
    assert scrolling(prompt="\n".join("abcdefgh")) == 1


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_picture_that_is_gone_or_damaged_is_told_without_the_address_of_the_store(
    stage: Stage, ann: httpx.Client, harm: str
) -> None:
    render = rendered(stage, ann)
    picture, objects = f"{render}-000000", stage.context.objects
    key = str(stage.context.views.job(picture).object)
    objects.delete(key)
    if harm == "damaged":
        objects.put(key, b"<html>")
    signed = stage.context.links.make(stage.context.views.job(picture), "/")
    for path in (f"/pictures/{picture}/file", f"/v1/jobs/{picture}/image", signed):
        answer = ann.get(path)
        assert answer.status_code == 404, path
        assert harm in answer.text
        assert str(stage.services.settings.home) not in answer.text
        assert key not in answer.text
