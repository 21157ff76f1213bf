"""An open page in a browser: it asks again when something has changed, and on PostgreSQL and S3 as on one machine."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Request, expect

from storage.settings import Settings
from tests.acceptance.api import MODELS, Api
from tests.acceptance.browser import Visit, visiting
from tests.forks import Starter
from tests.integration.conftest import farm_of
from tests.servers import eventually

pytestmark = pytest.mark.slow

#: Milliseconds; a busy machine takes its time.
PATIENCE = 60_000


#: The shortest pause before the next look, for an event.
_LEAST = "([kind, index]) => leastOf(new MessageEvent(kind, { data: JSON.stringify({ index: Number(index) }) }))"


def looks(visit: Visit, path: str) -> list[str]:
    """What it asks of a page from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.url == visit.address + path:
            asked.append(request.url)

    visit.page.on("request", note)
    return asked


def test_an_open_page_asks_again_only_when_something_has_changed(visit: Visit, keyless: Api) -> None:
    page = visit.page
    with httpx.Client(base_url=keyless.address, timeout=90) as client:
        later = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
        body = {"prompt": "a star", "model": "quick", "n": 3, "not_before": later}
        render = client.post("/v1/renders", json=body).raise_for_status().json()["id"]
        page.clock.install()
        with page.expect_response(lambda answer: "/events" in answer.url):
            visit.goes_to(f"/renders/{render}")
        expect(page.locator("h1 .state")).to_have_text("held", timeout=PATIENCE)
        # At once for a picture in sight that is not finished; for what changes only a number, after a while.
        told = ("job.done 1", "job.done 70", "render.held 0", "reset 0")
        assert [page.evaluate(_LEAST, one.split()) for one in told] == [400, 1500, 400, 400]
        asked = looks(visit, f"/renders/{render}")
        page.clock.fast_forward("05:00")
        page.evaluate("1")
        assert asked == []
        client.delete(f"/v1/renders/{render}").raise_for_status()
        expect(page.locator("h1 .state")).to_have_text("cancelled", timeout=PATIENCE)
        assert asked


def test_what_the_command_line_renders_is_followed_at_the_front_and_on_its_own_page(
    visit: Visit, keyless: Api, browser: Browser, tmp_path: Path
) -> None:
    visit.goes_to("/")
    assert visit.page.evaluate(_LEAST, ["render", "0"]) == 1500
    ended = keyless.home.farm("render", "a star", "--model", "slow", "-n", "2", "--no-wait", "--json")
    render = ended.json["id"]
    expect(visit.page.locator(".renders")).to_contain_text(render, timeout=PATIENCE)
    with visiting(browser, keyless.address, tmp_path) as other:
        other.goes_to(f"/renders/{render}")
        expect(other.page.locator(".tiles img")).to_have_count(2, timeout=PATIENCE)
        expect(other.page.locator("h1 .state")).to_have_text("done", timeout=PATIENCE)
    expect(visit.page.locator(f"#r-{render} + .state")).to_have_text("done", timeout=PATIENCE)


def test_what_is_chosen_and_where_the_keyboard_is_stay_when_the_page_changes(visit: Visit, keyless: Api) -> None:
    page = visit.page
    with httpx.Client(base_url=keyless.address, timeout=90) as client:
        body = {"prompt": "a star", "model": "quick", "n": 3, "not_before": "2100-01-01 00:00"}
        render = client.post("/v1/renders", json=body).raise_for_status().json()["id"]
        visit.goes_to(f"/renders/{render}")
        page.select_option("#priority", "bulk")
        page.evaluate("document.activeElement.blur()")
        page.focus("a[href='#find']")
        client.delete(f"/v1/jobs/{render}-000001").raise_for_status()
        expect(page.locator("#p-1 .noimage")).to_have_text("cancelled", timeout=PATIENCE)
        assert page.input_value("#priority") == "bulk"
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#find"
        # A list that is open would close: as long as somebody chooses from it, nothing is put in its place.
        page.focus("#priority")
        page.evaluate("window.chosenFrom = document.getElementById('priority')")
        asked = looks(visit, f"/renders/{render}")
        client.delete(f"/v1/jobs/{render}-000002").raise_for_status()
        page.clock.install()
        page.clock.fast_forward("00:10")
        assert page.evaluate("chosenFrom.isConnected")
        assert asked == []
        page.clock.fast_forward("00:10")
        expect(page.locator("#p-2 .noimage")).to_have_text("cancelled", timeout=PATIENCE)


#: Which of two presses of a button would be sent; neither is.
_PRESSED_TWICE = """(id) => {
    const kept = [];
    addEventListener("submit", (event) => { kept.push(event.defaultPrevented); event.preventDefault(); });
    for (let n = 0; n < 2; n++) document.getElementById(id).click();
    return kept;
}"""


def test_a_button_that_is_clicked_twice_is_sent_once(visit: Visit, keyless: Api) -> None:
    with httpx.Client(base_url=keyless.address, timeout=90) as client:
        body = {"prompt": "a star", "model": "quick", "not_before": "2100-01-01 00:00"}
        render = client.post("/v1/renders", json=body).raise_for_status().json()["id"]
    visit.goes_to(f"/renders/{render}")
    assert visit.page.evaluate(_PRESSED_TWICE, "release") == [False, True]


def test_a_tile_whose_picture_is_gone_is_a_word(visit: Visit, keyless: Api) -> None:
    with httpx.Client(base_url=keyless.address, timeout=90) as client:
        body = {"prompt": "a star", "model": "quick", "n": 2}
        answer = client.post("/v1/renders", json=body, headers={"Prefer": "wait=60"})
        lost, kept = client.get(f"/v1/renders/{answer.json()['id']}/jobs").json()["jobs"]
    [file] = [one for one in keyless.home.path.rglob("*") if str(one).endswith(lost["object"])]
    file.unlink()
    visit.goes_to(f"/renders/{lost['render']}")
    expect(visit.page.locator("#p-0 .noimage")).to_have_text("cannot be shown", timeout=PATIENCE)
    expect(visit.page.locator("#p-1 img")).to_have_js_property("complete", True, timeout=PATIENCE)
    # The other's is damaged: its own page says so, where a browser would show a broken image.
    [file] = [one for one in keyless.home.path.rglob("*") if str(one).endswith(kept["object"])]
    file.chmod(0o644)
    file.write_bytes(b"no picture")
    visit.goes_to(f"/pictures/{kept['id']}")
    expect(visit.page.locator(".large .noimage")).to_contain_text("damaged in the store", timeout=PATIENCE)
    visit.can_be_used_by_everybody()
    visit.complaints[:] = [one for one in visit.complaints if "status of 404" not in one]


@pytest.fixture
def elsewhere(
    browser: Browser,  # noqa: ARG001 - without one, no farm is started
    postgres: str,
    s3: Settings,
    redis_url: str,
    tmp_path: Path,
    starter: Starter,
) -> Iterator[str]:
    """The address of a farm of several processes, on PostgreSQL and S3."""
    addresses: Mapping[str, str] = {
        "FARM_DATABASE_URL": postgres,
        "FARM_OBJECTS_URL": s3.objects,
        "FARM_S3_ENDPOINT_URL": str(s3.s3_endpoint_url),
        "FARM_BROKER_URL": redis_url,
        "FARM_SERVE": "quick",
    }
    with farm_of(MODELS, addresses, tmp_path, starter) as farm:
        farm.scheduler()
        farm.workers()
        yield farm.api()


def test_on_postgresql_and_s3_a_render_is_submitted_watched_and_found(
    browser: Browser, elsewhere: str, tmp_path: Path
) -> None:
    with visiting(browser, elsewhere, tmp_path) as visit:
        page = visit.page
        visit.goes_to("/submit?model=quick")
        page.fill("#prompt", "a {red|blue} <b>star</b>")
        page.select_option("#read_as", "template")
        page.fill("#n", "3")
        page.click("#check")
        page.click("#send")
        expect(page.locator(".tiles img")).to_have_count(6, timeout=PATIENCE)
        expect(page.locator("h1 .state")).to_have_text("done", timeout=PATIENCE)
        page.fill("[name=prompt]", "BLUE")
        page.click(".filter button")
        expect(page.locator(".tiles img")).to_have_count(3, timeout=PATIENCE)
        page.locator(".tiles a").first.click()
        # From the store, by way of the farm: a page asks no other host.
        expect(page.locator(".large img")).to_be_visible(timeout=PATIENCE)
        wide = "document.querySelector('.large img').naturalWidth"
        eventually(lambda: page.evaluate(wide) == 64, "the picture is there")
        visit.goes_to("/usage")
        expect(page.locator("table").first).to_contain_text("6", timeout=PATIENCE)
        visit.goes_to("/")
        expect(page.locator(".renders .state")).to_have_text("done", timeout=PATIENCE)
