"""The page of a farm with a past: galleries of thousands in pages that stay small, on each database."""

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.long_past import GALLERY, RARE, RARE_EVERY, Past, fill
from storage.access.keys import Role
from tests.contract.page.visitors import visitor
from tests.contract.stage import running_stage

PICTURES = 5000


@pytest.fixture
def admin(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    told = {} if database_kind == "sqlite" else {"database_url": request.getfixturevalue("postgres")}
    told |= {"objects_url": str(tmp_path / "objects"), "broker_url": "redis://127.0.0.1:1"} if told else {}
    with running_stage(tmp_path / "home", **told) as stage:
        stage.working.clear()
        past = Past(renders=30, pictures_each=2, gallery=PICTURES, model="tiny")
        fill(stage.services.settings.database, past, now=time.time())
        with visitor(stage, "eve", Role.ADMIN) as client:
            yield client


def indexes(text: str) -> list[int]:
    return [int(index) for index in re.findall(rf'href="/pictures/{GALLERY}-(\d+)"', text)]


def test_a_gallery_of_thousands_is_walked_and_filtered_in_pages_that_stay_small(admin: httpx.Client) -> None:
    gallery = f"/renders/{GALLERY}"
    for start in (-1, PICTURES // 2, PICTURES - 31):
        answer = admin.get(gallery, params={"after": start})
        assert answer.status_code == 200, answer.text
        text = answer.text
        assert indexes(text) == [*range(start + 1, min(start + 61, PICTURES))]
        assert len(text) < 100_000
        following = re.search(r'id="next" href="([^"]+)"', text)
        assert bool(following) == (start + 61 < PICTURES)
        if following:
            assert indexes(admin.get(html.unescape(following[1])).text)[0] == start + 61
    rare = [index for index in range(PICTURES) if index % RARE_EVERY == RARE_EVERY - 1]
    assert indexes(admin.get(gallery, params={"prompt": RARE.upper()}).text) == rare
    assert indexes(admin.get(gallery, params={"seed": PICTURES - 1}).text) == [PICTURES - 1]
    assert indexes(admin.get(gallery, params={"prompt": "elephant"}).text) == []
    front = admin.get("/").text
    assert len(front) < 100_000
    usage = admin.get("/v1/usage").json()
    assert sum(one["pictures"] for one in usage) == PICTURES + 60
    assert "5,020" in admin.get("/usage").text
