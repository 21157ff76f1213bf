"""What the front page shows of the page: kept, small, where screenshots are asked for."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.acceptance.api import finished, running_api
from tests.acceptance.browser import Visit, chromium, visiting
from tests.forks import Starter

pytestmark = pytest.mark.slow

_MOST_BYTES = 150_000
_WINDOW = {"width": 1280, "height": 760}


def test_the_front_page_shows_a_render_and_a_grid_of_the_shipped_model(
    request: pytest.FixtureRequest, tmp_path: Path, starter: Starter
) -> None:
    said = request.config.getoption("--screenshots")
    if not said:
        pytest.skip("no screenshots are asked for (--screenshots DIR)")
    Path(said).mkdir(parents=True, exist_ok=True)
    settings = {"FARM_DEVICES": "cpu:0", "HF_HUB_OFFLINE": "1", "FARM_OWNER": "ann"}
    shapes = "builtin = true\ndefault = 'shapes'\n"
    with chromium() as browser, running_api(tmp_path / "shown", starter, models=shapes, **settings) as api:
        colours, forms = (
            ("red", "orange", "green", "cyan", "blue"),
            ("star", "heart", "ring", "cross", "diamond", "circle"),
        )
        many = {
            "templates": [f"a large {{{'|'.join(colours)}}} {{{'|'.join(forms)}}} on a white background"],
            "seed": 7,
            "name": "shapes of all colours",
        }
        few = {
            "prompt": ["a large yellow star on a blue background", "a large red heart on a white background"],
            # One seed for all, not one for each.
            "product": {"num_inference_steps": [1, 2, 3, 4, 8, 20], "seed": [3]},
            "name": "how many steps",
        }
        with httpx.Client(base_url=api.address, timeout=90) as client:
            grid, gallery = (made(client, body) for body in (few, many))
        with visiting(browser, api.address, Path(said), viewport=_WINDOW, color_scheme="light") as visit:
            visit.goes_to(f"/renders/{gallery}")
            expect(visit.page.locator(".tiles img")).to_have_count(30)
            kept(visit, "page-render")
        with visiting(browser, api.address, Path(said), viewport=_WINDOW, color_scheme="dark") as visit:
            visit.goes_to(f"/renders/{grid}/grid")
            expect(visit.page.locator(".grid-table img")).to_have_count(12)
            kept(visit, "page-grid")


def made(client: httpx.Client, body: dict[str, Any]) -> str:
    """The id of a render that is done."""
    render = str(client.post("/v1/renders", json=body).json()["id"])
    assert finished(client, render)["failed"] == 0
    return render


def kept(visit: Visit, name: str) -> None:
    """Keep what is seen, small enough for a page that many read."""
    visit.is_shown(name, whole=False)
    png, small = visit.folder / f"{name}.png", visit.folder / f"{name}.webp"
    with Image.open(png) as shot:
        shot.convert("RGB").save(small, "WEBP", quality=82, method=6)
    png.unlink()
    assert small.stat().st_size <= _MOST_BYTES
