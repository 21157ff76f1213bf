"""Headless Chromium, if this system has it, and what it was told and asked for meanwhile."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Error, Page, Response, sync_playwright

#: For each window, Chromium has a process for what drops down from a bar for addresses that nobody sees, and one in
#: reserve: half of the processor's time of these tests. Of several such options the last counts, so what Playwright
#: disables is named here again.
_DISABLED = (
    *("WebUIOmniboxPopup", "WebUIOmniboxFullPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFrame"),
    *("PreloadTopChromeWebUI", "SpareRendererForSitePerProcess"),
    *("AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay"),
    *("MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch"),
    "ThirdPartyStoragePartitioning",
)
#: Nothing of a browser's own is asked for elsewhere. A page of the farm begins in a process of its own
#: (`Cross-Origin-Opener-Policy`), beside that of the empty page before it, unless one process is to be enough.
_OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--renderer-process-limit=1"),
    f"--disable-features={','.join(_DISABLED)}",
)
_SECONDS = 60
#: Of windows, in pixels.
_LAPTOP = 1280
WIDTHS = (360, _LAPTOP, 2560)
Scheme = Literal["light", "dark"]
#: All pictures of a page, there.
_PICTURES = """Promise.all([...document.images].map((one) => {
    one.loading = "eager";
    return one.complete || new Promise((done) => { one.onload = one.onerror = done; });
}))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium. Skips the test where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed, so the page is tried in no browser (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """Somebody's browser, with no cookie at first."""

    address: str
    context: BrowserContext
    page: Page
    folder: Path
    #: Every text that was sent to it.
    texts: list[str] = field(default_factory=list)
    #: What it complained of: scripts that failed, what the policy forbids, what is not there.
    complaints: list[str] = field(default_factory=list)

    def goes_to(self, path: str) -> None:
        self.page.goto(self.address + path)

    def logs_in(self, key: str) -> None:
        self.goes_to("/login")
        self.page.fill("#key", key)
        self.page.click("button.main")
        self.page.wait_for_selector(".who button")

    def is_shown(self, name: str, *, whole: bool = True) -> None:
        """Keep a picture of the page, with all of its pictures."""
        self.page.evaluate(_PICTURES)
        self.page.screenshot(path=self.folder / f"{name}.png", full_page=whole)

    def can_be_used_by_everybody(self) -> None:
        """No rule of axe-core's is violated."""
        found = Axe().run(self.page).response["violations"]
        wrong = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]
        assert not wrong, wrong

    def fits_its_window(self) -> None:
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{self.page.url} is {wide} pixels wider than the window"

    def fits_all_windows(self, name: str, scheme: Scheme) -> None:
        """Of a telephone, a laptop and a wide screen: kept as pictures, and used by everybody in the first two."""
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            self.fits_its_window()
            # Colours do not depend on the width, nor the order of a page on colours.
            if width == _LAPTOP or (width < _LAPTOP and scheme == "light"):
                self.can_be_used_by_everybody()
            self.is_shown(f"{name}-{scheme}-{width}")

    def _heard(self, response: Response) -> None:
        kind = response.headers.get("content-type", "")
        if "html" in kind or "json" in kind:
            # Of what was left meanwhile, there is none any more.
            with suppress(Error):
                self.texts.append(response.text())


@contextmanager
def visiting(browser: Browser, address: str, folder: Path, **options: Any) -> Iterator[Visit]:
    """A browser of its own, which must have nothing to complain of at the end."""
    context = browser.new_context(**options)
    context.set_default_timeout(_SECONDS * 1000)
    page = context.new_page()
    visit = Visit(address, context, page, folder)
    host = urlsplit(address).netloc
    bad = ("error", "warning")
    page.on("console", lambda said: visit.complaints.append(said.text) if said.type in bad else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: None if urlsplit(asked.url).netloc == host else visit.complaints.append(f"asks {asked.url}"),
    )
    page.on("response", visit._heard)
    try:
        yield visit
    finally:
        context.close()
    assert not visit.complaints, visit.complaints
