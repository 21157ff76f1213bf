"""Pages in headless Chromium, where there is one, and when their pictures were there."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from benchmarks.packages import is_here

if TYPE_CHECKING:
    from playwright.sync_api import Page

_OPTIONS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
#: The moment at which each picture of a job was decoded first.
_NOTE = """() => {
    window.seen = {};
    const note = (image) => {
        const job = /jobs\\/([0-9a-z]+-\\d+)\\/thumbnail/.exec(image.src);
        if (job && !(job[1] in window.seen)) window.seen[job[1]] = Date.now() / 1000;
    };
    for (const image of document.images) if (image.complete) note(image);
    document.addEventListener("load", (event) => { if (event.target.tagName === "IMG") note(event.target); }, true);
}"""
#: All of a page's tiles in its window: pictures beyond it are loaded when somebody scrolls.
_WINDOW = {"width": 1600, "height": 3000}


class Browsers:
    """Pages of one browser; none where there is no browser."""

    def __init__(self, address: str, browser: Any) -> None:
        self._address = address
        self._browser = browser
        self._pages: list[Page] = []

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Self]:
        """Start a browser, if this system has one."""
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        with ExitStack() as held:
            browser = None
            if program is not None and is_here("playwright"):
                from playwright.sync_api import sync_playwright

                playwright = held.enter_context(sync_playwright())
                browser = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
                held.callback(browser.close)
            yield cls(address, browser)

    def open(self, paths: Sequence[str]) -> int:
        """Open pages, and return how many."""
        for path in paths if self._browser is not None else ():
            page = self._browser.new_page(viewport=_WINDOW)
            page.goto(f"{self._address}{path}")
            page.evaluate(_NOTE)
            self._pages.append(page)
        return len(self._pages)

    def close(self) -> Sequence[Mapping[str, float]]:
        """Close the pages; of each, when the small picture of each job was there."""
        seen = [page.evaluate("window.seen") for page in self._pages]
        for page in self._pages:
            page.close()
        self._pages.clear()
        return seen
