"""The page in a browser, over a farm of simulated devices: renders are submitted, watched, cancelled and found."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance.api import Api, finished
from tests.acceptance.browser import Scheme, Visit, visiting

pytestmark = pytest.mark.slow


@pytest.fixture
def client(keyless: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keyless.address, timeout=90) as client:
        yield client


def test_an_empty_farm_says_what_to_do(visit: Visit) -> None:
    visit.goes_to("/")
    expect(visit.page.locator(".empty")).to_contain_text("Submit the first one")
    visit.can_be_used_by_everybody()
    visit.is_shown("front-0")


def test_a_render_is_submitted_by_the_form_and_watched_until_its_pictures_are_there(visit: Visit) -> None:
    page = visit.page
    visit.goes_to("/submit?model=quick")
    page.fill("#prompt", "a {red|blue} <b>star</b>")
    page.select_option("#read_as", "template")
    page.fill("#n", "3")
    page.fill("#name", "stars & stripes")
    page.click("#check")
    expect(page.locator("#estimate-title")).to_have_text("6 pictures with quick")
    visit.can_be_used_by_everybody()
    visit.is_shown("form-checked")
    page.click("#send")
    expect(page.locator("h1")).to_contain_text("stars & stripes")
    # As they come, without another word to the browser.
    expect(page.locator(".tiles img")).to_have_count(6)
    expect(page.locator("h1 .state")).to_have_text("done")
    assert page.locator(".tiles img").first.get_attribute("alt") == "a red <b>star</b>"
    visit.can_be_used_by_everybody()
    page.fill("[name=prompt]", "BLUE")
    page.click(".filter button")
    expect(page.locator(".tiles img")).to_have_count(3)
    page.locator(".tiles a").first.click()
    expect(page.locator(".large img")).to_be_visible()
    assert page.evaluate("document.querySelector('.large img').naturalWidth") == 64
    expect(page.locator("#command")).to_contain_text("'a blue <b>star</b>'")
    visit.can_be_used_by_everybody()
    visit.is_shown("picture")
    page.fill("#n", "2")
    page.click("#vary")
    expect(page.locator(".said")).to_contain_text("Submitted: 2 pictures.")
    expect(page.locator(".tiles img")).to_have_count(2)


def test_a_render_is_held_released_and_cancelled_and_the_back_button_tells_so(
    visit: Visit, client: httpx.Client
) -> None:
    page = visit.page
    # Of so many steps that none is done before a busy machine's browser has looked.
    asked = {"prompt": "a slow star", "n": 40, "model": "slow", "num_inference_steps": 1000}
    render = client.post("/v1/renders", json=asked).json()["id"]
    visit.goes_to(f"/renders/{render}")
    page.click("#hold")
    expect(page.locator("h1 .state")).to_have_text("held")
    expect(page.locator(".counts")).to_have_text("0 of 40 done, 40 left")
    visit.is_shown("held")
    page.click("#release")
    expect(page.locator("#hold")).to_be_visible()
    page.click("#cancel")
    page.click("#cancel-sure")
    expect(page.locator(".said")).to_contain_text("cancelled")
    expect(page.locator("h1 .state")).to_have_text("cancelled")
    page.go_back()
    expect(page.locator("h1 .state")).to_have_text("cancelled")


def test_pictures_that_failed_say_why_and_are_retried(visit: Visit, client: httpx.Client) -> None:
    page = visit.page
    render = client.post("/v1/renders", json={"prompt": ["a star", "a black hole"], "model": "quick"}).json()["id"]
    finished(client, render)
    visit.goes_to(f"/renders/{render}")
    expect(page.locator("h1 .state")).to_have_text("failed")
    page.click("#failed")
    expect(page.locator(".number")).to_have_text(["1"])
    page.click("text=Retry 1 picture")
    expect(page.locator(".said")).to_have_text("1 picture in the queue again.")
    finished(client, render)
    visit.goes_to(f"/pictures/{render}-000001")
    expect(page.locator(".problem")).to_contain_text("bad")
    # One for each time.
    expect(page.locator("#faults tbody tr")).to_have_count(2)
    visit.can_be_used_by_everybody()
    visit.is_shown("failed")
    visit.goes_to("/workers")
    expect(page.locator("dt:text-is('Holds in memory') + dd")).to_contain_text("quick")
    for path in ("/workers", "/faults", "/usage", "/schedules", "/keys", "/submit"):
        visit.goes_to(path)
        visit.can_be_used_by_everybody()
        visit.is_shown(path.strip("/"))


def test_a_render_of_combinations_is_seen_as_a_grid(visit: Visit, client: httpx.Client) -> None:
    page = visit.page
    body = {"prompt": ["a star", "a moon"], "product": {"num_inference_steps": [1, 2, 3]}, "seed": 1, "model": "quick"}
    render = client.post("/v1/renders", json=body).json()["id"]
    finished(client, render)
    visit.goes_to(f"/renders/{render}")
    page.click("#grid")
    expect(page.locator(".grid-table img")).to_have_count(6)
    assert page.locator(".grid-table thead th").all_inner_texts()[1:] == ["1", "2", "3"]
    visit.can_be_used_by_everybody()
    visit.is_shown("grid")
    page.select_option("#x", "prompt")
    page.select_option("#y", "steps")
    page.click("#draw")
    expect(page.locator(".grid-table thead th")).to_have_text(["steps ↓ prompt →", "a star", "a moon"])
    assert "x=prompt&y=steps" in page.url
    page.locator(".grid-table a").first.click()
    expect(page.locator(".large img")).to_be_visible()


def test_pictures_are_found_by_numbers_and_duplicates_and_what_matches_nothing_says_so(
    visit: Visit, client: httpx.Client
) -> None:
    page = visit.page
    rows = [{"prompt": f"a star {n}", "seed": 3, "labels": {"score": n / 4, "onclick": '"><i>'}} for n in range(4)]
    manifest = "\n".join(json.dumps(row) for row in [*rows, rows[0]])
    sent = client.post("/v1/files", data={"purpose": "manifest"}, files={"file": ("rows.jsonl", manifest.encode())})
    render = client.post("/v1/renders", json={"manifest": sent.json()["id"], "model": "quick"}).json()["id"]
    finished(client, render)
    visit.goes_to(f"/renders/{render}")
    page.fill("[name=number]", "score>=0.5")
    page.keyboard.press("Enter")
    expect(page.locator(".tiles img")).to_have_count(2)
    expect(page.locator("#narrowed")).to_be_visible()
    page.fill("[name=number]", "")
    for alike in ("recipe", "pixels"):
        page.select_option("[name=duplicates]", alike)
        page.click(".filter button")
        expect(page.locator(".number")).to_have_text(["0", "4"])
    page.fill("[name=prompt]", "nothing like it")
    page.click(".filter button")
    expect(page.locator(".empty")).to_contain_text("No picture is like that.")
    visit.can_be_used_by_everybody()
    page.click(".empty a")
    expect(page.locator(".tiles img")).to_have_count(5)
    page.click("text=Find pictures")
    expect(page.locator("#find")).to_be_in_viewport()
    expect(page.locator("#narrowed")).to_have_count(0)


def test_a_render_that_is_deleted_while_it_is_looked_at_says_so(visit: Visit, client: httpx.Client) -> None:
    page = visit.page
    render = client.post("/v1/renders", json={"prompt": "a slow star", "n": 40, "model": "slow"}).json()["id"]
    visit.goes_to(f"/renders/{render}")
    expect(page.locator("#hold")).to_be_visible()
    client.delete(f"/v1/renders/{render}", params={"purge": True})
    expect(page.locator("h1")).to_have_text("Not Found")
    visit.can_be_used_by_everybody()
    visit.complaints[:] = [one for one in visit.complaints if "status of 404" not in one]


def test_two_tabs_that_hold_and_release_show_what_was_said_last(visit: Visit, client: httpx.Client) -> None:
    render = client.post("/v1/renders", json={"prompt": "a slow star", "n": 40, "model": "slow"}).json()["id"]
    one, other = visit.page, visit.context.new_page()
    for tab in (one, other):
        tab.goto(f"{visit.address}/renders/{render}")
    one.click("#hold")
    expect(one.locator("h1 .state")).to_have_text("held")
    # It still offers what it showed, or what is true by now: both are done.
    other.click("#hold, #release")
    expect(other.locator(".said")).to_be_visible()
    if other.locator("#release").count():
        other.click("#release")
    expect(other.locator("#hold")).to_be_visible()
    one.reload()
    expect(one.locator("#hold")).to_be_visible()
    client.delete(f"/v1/renders/{render}")


def test_a_render_is_submitted_by_the_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    visit.goes_to("/submit?model=quick")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a star by keys")
    page.locator("#check").focus()
    page.keyboard.press("Enter")
    page.locator("#send").focus()
    page.keyboard.press("Space")
    expect(page.locator(".tiles img")).to_have_count(1)
    page.locator(".tiles a").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".large img")).to_be_visible()
    page.locator("#cancel, #delete").last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#delete-sure")).to_be_visible()


def test_without_scripts_everything_is_read_and_sent(browser: Browser, keyless: Api, screenshots: Path) -> None:
    with visiting(browser, keyless.address, screenshots, java_script_enabled=False) as visit, httpx.Client() as client:
        page = visit.page
        visit.goes_to("/submit?model=quick")
        page.fill("#prompt", "a plain star")
        page.click("#check")
        page.click("#send")
        render = page.url.rpartition("/")[2]
        client.base_url = keyless.address
        finished(client, render)
        page.reload()
        expect(page.locator(".tiles img")).to_have_count(1)
        visit.goes_to("/")
        expect(page.locator(".renders")).to_contain_text(render)
        # Everything that there is to read, and what is sent from where scripts would ask first.
        for path, words in (
            (f"/pictures/{render}-000000", "How it was made"),
            (f"/renders/{render}/grid", "Grid of"),
            ("/workers", "Holds in memory"),
            ("/usage", "Pictures in the store"),
            ("/schedules", "Schedules"),
            ("/faults", "Faults"),
            ("/keys", "Keys"),
        ):
            visit.goes_to(path)
            expect(page.locator("main")).to_contain_text(words)
        visit.goes_to(f"/renders/{render}")
        page.click("#delete")
        page.click("#delete-sure")
        expect(page.locator(".said")).to_contain_text("is deleted")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_their_window_in_light_and_dark(
    browser: Browser, keyless: Api, screenshots: Path, client: httpx.Client, scheme: Scheme
) -> None:
    found = client.get("/v1/renders", params={"name": "gallery"}).json()["renders"]
    if not found:
        colours = [f"a {colour} star, {'very ' * 30}bright" for colour in ("red", "green", "blue", "grey", "white")]
        body = {"prompt": colours, "n": 10, "model": "quick", "name": "gallery", "note": "for\nlooking at"}
        found = [client.post("/v1/renders", json=body).json()]
        for name, cron in (("yearly", "0 2 1 1 *"), ("monthly", "0 2 1 * *")):
            plan = {"name": name, "cron": cron, "render": {"prompt": "a star", "model": "quick"}}
            client.post("/v1/schedules", json=plan)
        client.post("/v1/schedules/monthly/pause")
        client.post("/v1/schedules/yearly/run-now")
        finished(client, found[0]["id"])
    render = found[0]["id"]
    body = {
        "prompt": ["a star", "a moon"],
        "n": 2500,
        "model": "quick",
        "not_before": "2100-01-01 00:00",
        "name": "many",
    }
    many = client.post("/v1/renders", json=body, headers={"Idempotency-Key": "many"}).json()["id"]
    one = client.post("/v1/renders", json={"prompt": "a star", "model": "quick"}, headers={"Idempotency-Key": "one"})
    finished(client, one.json()["id"])
    with visiting(browser, keyless.address, screenshots, color_scheme=scheme) as visit:
        for name, path in (
            ("front", "/"),
            ("render-1", f"/renders/{one.json()['id']}"),
            ("render-50", f"/renders/{render}"),
            ("render-5000", f"/renders/{many}?after=4939"),
            ("picture", f"/pictures/{render}-000007"),
            ("grid", f"/renders/{render}/grid"),
            ("schedules", "/schedules"),
            ("submit", "/submit"),
        ):
            visit.goes_to(path)
            visit.fits_all_windows(name, scheme)


def test_a_picture_is_seen_while_it_is_rendered(visit: Visit, client: httpx.Client) -> None:
    page = visit.page
    # As above.
    asked = {"prompt": "a slow star", "n": 2, "model": "slow", "num_inference_steps": 1000}
    render = client.post("/v1/renders", json=asked).json()["id"]
    visit.goes_to(f"/renders/{render}")
    seen = page.locator(".tiles canvas.preview").first
    expect(seen).to_be_visible()
    expect(seen).to_have_attribute("aria-label", re.compile(r"Preview after step \d+ of 1000"))
    # Not grey any more, which it was at first: something was drawn.
    assert page.evaluate(
        "[...document.querySelector('canvas.preview').getContext('2d').getImageData(9, 9, 1, 1).data].slice(3)"
    ) == [255]
    visit.can_be_used_by_everybody()
    visit.is_shown("render-previews")
    # A picture's own page has no events, and asks.
    visit.goes_to(f"/pictures/{render}-000000")
    expect(page.locator(".large canvas.preview")).to_be_visible()
    visit.is_shown("picture-preview")
    client.delete(f"/v1/renders/{render}")
    expect(page.locator("h1 .state")).not_to_have_text("running")
    expect(page.locator("canvas.preview")).to_have_count(0)
