"""The page of a farm with keys, in a browser: who sees what, and what its admins do there."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance.api import Api, finished, running_api
from tests.acceptance.browser import Scheme, Visit, visiting
from tests.forks import Starter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keyed(
    browser: Browser,  # noqa: ARG001 - without one, no farm is started
    tmp_path_factory: pytest.TempPathFactory,
    starter: Starter,
) -> Iterator[Api]:
    """An API that asks everybody for a key."""
    with running_api(tmp_path_factory.mktemp("keyed"), starter) as api:
        yield api


@pytest.fixture(scope="module")
def eves_key(keyed: Api) -> str:
    """An admin's."""
    return keyed.key("eve", "--role", "admin")


@pytest.fixture
def eve(browser: Browser, keyed: Api, eves_key: str, screenshots: Path) -> Iterator[Visit]:
    with visiting(browser, keyed.address, screenshots) as visit:
        visit.logs_in(eves_key)
        yield visit


@pytest.fixture(scope="module")
def eves_client(keyed: Api, eves_key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {eves_key}"}
    with httpx.Client(base_url=keyed.address, headers=headers, timeout=90) as client:
        yield client


@pytest.fixture
def quarantined(keyed: Api, eves_client: httpx.Client) -> Iterator[str]:
    """The worker, as after repeated faults; released at the end."""
    [worker] = eves_client.get("/v1/workers").json()
    with closing(sqlite3.connect(keyed.home.path / "farm.db", timeout=60)) as connection, connection:
        row = (worker["name"], "quick", time.time(), time.time() + 3600, "three <b>bad</b> pictures in a row")
        connection.execute("INSERT OR REPLACE INTO quarantines VALUES (?, ?, ?, ?, ?)", row)
    yield worker["name"]
    eves_client.post(f"/v1/workers/{worker['name']}/release").raise_for_status()


def test_a_key_is_made_shown_once_counted_and_revoked(
    eve: Visit, browser: Browser, keyed: Api, screenshots: Path
) -> None:
    page = eve.page
    eve.goes_to("/keys")
    for name, value in (("name", "for <b>gil</b>"), ("owner", "gil"), ("queued", "seven"), ("days", "30")):
        page.fill(f"#{name}", value)
    page.click("#make")
    # Nothing of what was filled in is lost.
    expect(page.locator(".problem")).to_contain_text("queued")
    assert page.input_value("#name") == "for <b>gil</b>"
    page.fill("#queued", "7")
    page.click("#make")
    secret = page.locator("#made").inner_text()
    eve.can_be_used_by_everybody()
    eve.goes_to("/keys")
    expect(page.locator("tbody")).to_contain_text("Unfinished pictures: 7")
    assert secret not in page.content()
    with visiting(browser, keyed.address, screenshots) as gil:
        gil.logs_in(secret)
        gil.goes_to("/usage")
        expect(gil.page.locator("dt:text-is('Unfinished pictures') + dd")).to_have_text("0 of 7")
        key_id = secret.split("_")[1]
        page.click(f"#revoke-{key_id}")
        page.click(f"#revoke-{key_id}-sure")
        expect(page.locator(".said")).to_contain_text("is revoked")
        gil.goes_to("/")
        expect(gil.page.locator("h1")).to_have_text("Log in")
    eve.complaints[:] = [one for one in eve.complaints if "status of 422" not in one]


@pytest.mark.usefixtures("quarantined")
def test_a_worker_in_quarantine_says_why_and_is_released(eve: Visit) -> None:
    eve.goes_to("/workers")
    expect(eve.page.locator(".card .problem")).to_contain_text("three <b>bad</b> pictures in a row")
    eve.page.click("text=End its quarantine")
    expect(eve.page.locator(".said")).to_contain_text("1 quarantine of")
    expect(eve.page.locator(".card .problem")).to_have_count(0)


def test_a_schedule_is_run_says_why_it_waits_is_paused_and_goes_on(eve: Visit, eves_client: httpx.Client) -> None:
    page, now = eve.page, datetime.now(UTC)
    window = f"{now + timedelta(hours=3):%H:%M}-{now + timedelta(hours=4):%H:%M}"
    plan = {"name": "nightly", "cron": f"30 {(now + timedelta(hours=3)).hour} * * *", "window": window}
    order = {"prompt": "a star", "model": "quick"}
    eves_client.post("/v1/schedules", json={**plan, "render": order}).raise_for_status()
    eve.goes_to("/schedules")
    page.get_by_role("button", name="Run now: nightly").click()
    expect(page.locator("h1 .state")).to_have_text("held")
    expect(page.locator(".said")).to_contain_text("outside its window")
    eve.goes_to("/schedules/nightly")
    expect(page.locator("tbody")).to_contain_text("outside its window")
    page.click("#pause")
    expect(page.locator("dt:text-is('Next') + dd")).to_have_text("paused")
    eve.goes_to("/schedules")
    expect(page.locator("tbody")).to_contain_text("paused")
    page.get_by_role("button", name="Resume nightly").click()
    expect(page.locator("#pause")).to_be_visible()
    eves_client.delete("/v1/schedules/nightly").raise_for_status()


@pytest.fixture(scope="module")
def failed(eves_client: httpx.Client) -> None:
    """A picture that failed, and a key with limits."""
    body = {"prompt": "a black hole", "model": "quick"}
    finished(eves_client, eves_client.post("/v1/renders", json=body).json()["id"])
    long = {"name": "a printer with a very long name, in the hall", "owner": "a.long.name@company.example.org"}
    limits = {"queued": 1000, "per_day": 100_000, "work": 10**9}
    eves_client.post("/v1/keys", json={**long, "role": "read", "limits": limits}).raise_for_status()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.usefixtures("failed", "quarantined")
def test_pages_of_admins_fit_their_window_in_light_and_dark(
    browser: Browser, keyed: Api, eves_key: str, screenshots: Path, scheme: Scheme
) -> None:
    with visiting(browser, keyed.address, screenshots, color_scheme=scheme) as visit:
        visit.goes_to("/login?next=/faults")
        visit.fits_all_windows("login", scheme)
        visit.logs_in(eves_key)
        for path in ("faults", "keys", "usage", "workers"):
            visit.goes_to(f"/{path}")
            visit.fits_all_windows(path, scheme)


def test_owners_see_their_own_alone_and_an_admin_all(
    browser: Browser, keyed: Api, eves_key: str, screenshots: Path
) -> None:
    api, keys = keyed, {"ann": keyed.key("ann"), "ben": keyed.key("ben"), "eve": eves_key}
    own: dict[str, str] = {}
    for owner in ("ann", "ben"):
        with visiting(browser, api.address, screenshots) as visit:
            visit.goes_to("/renders?state=done")
            expect(visit.page).to_have_url(f"{api.address}/login?next=%2Frenders%3Fstate%3Ddone")
            visit.logs_in(keys[owner])
            visit.goes_to("/submit?model=quick")
            visit.page.fill("#prompt", f"a secret of {owner}")
            visit.page.fill("#name", f"{owner}s-render")
            visit.page.click("#check")
            visit.page.click("#send")
            expect(visit.page.locator(".tiles img")).to_have_count(1)
            own[owner] = visit.page.url.rpartition("/")[2]
            if owner == "ben":
                looks_around(visit, own)
                told = "\n".join(visit.texts)
                assert "a secret of ben" in told
                # What is not there is named as it was asked for, and no more is said of it.
                for leak in ("secret of ann", "anns-render", ">ann<", '"ann"'):
                    assert leak not in told
    with visiting(browser, api.address, screenshots) as visit:
        visit.logs_in(keys["eve"])
        visit.goes_to("/")
        expect(visit.page.locator(".renders")).to_contain_text("anns-render")
        expect(visit.page.locator(".renders")).to_contain_text("bens-render")
        for path in ("/usage", "/keys"):
            visit.goes_to(path)
            visit.can_be_used_by_everybody()
        visit.is_shown("keys-admin")
        a_revoked_key_ends_the_pages_that_are_open(browser, api, keys, screenshots)
        visit.page.click("text=Log out")
        expect(visit.page).to_have_url(f"{api.address}/login")
        visit.goes_to("/")
        expect(visit.page.locator("h1")).to_have_text("Log in")


def a_revoked_key_ends_the_pages_that_are_open(
    browser: Browser, api: Api, keys: dict[str, str], screenshots: Path
) -> None:
    with visiting(browser, api.address, screenshots) as visit:
        visit.logs_in(keys["ben"])
        visit.goes_to("/")
        expect(visit.page.locator(".renders")).to_contain_text("bens-render")
        headers = {"Authorization": f"Bearer {keys['eve']}"}
        key_id = keys["ben"].split("_")[1]
        httpx.delete(f"{api.address}/v1/keys/{key_id}", headers=headers, timeout=90).raise_for_status()
        # By itself, within seconds: nobody presses anything.
        expect(visit.page).to_have_url(re.compile("/login"), timeout=60_000)
        visit.complaints[:] = [one for one in visit.complaints if "status of 401" not in one]


def looks_around(visit: Visit, own: dict[str, str]) -> None:
    """Everywhere, and where it may not."""
    for path in ("/", "/workers", "/usage", "/schedules", "/submit"):
        visit.goes_to(path)
    anns = (f"/renders/{own['ann']}", f"/renders/{own['ann']}/grid", f"/pictures/{own['ann']}-000000")
    for path in (*anns, "/keys", "/faults", "/renders?owner=ann"):
        visit.goes_to(path)
        assert visit.page.locator("h1").inner_text() in ("Not Found", "Forbidden")
    visit.complaints[:] = [one for one in visit.complaints if "status of 40" not in one]
