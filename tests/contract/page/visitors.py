"""Browsers at the page, without a browser: logged in or not, and what they make of a page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import httpx

from storage.access.keys import Keys, Limits, Role
from tests.contract.stage import Stage
from tests.servers import eventually

VIEWS = ("/", "/renders", "/submit", "/workers", "/usage", "/schedules", "/login")
ADMINS_VIEWS = ("/faults", "/keys")
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@contextmanager
def visitor(stage: Stage, owner: str | None = None, role: Role = Role.SUBMIT) -> Iterator[httpx.Client]:
    """A browser; one of an owner has logged in."""
    with httpx.Client(base_url=stage.address, headers=HTML, timeout=90) as client:
        if owner is not None:
            log_in(
                client, Keys(stage.services.database).create(name="page", owner=owner, role=role, limits=Limits())[1]
            )
        yield client


def log_in(client: httpx.Client, key: str, leads_to: str = "/") -> httpx.Response:
    return client.post("/login/send", data={"form_token": token(client, "/login"), "key": key, "next": leads_to})


def token(client: httpx.Client, path: str = "/submit") -> str:
    found = re.search(r'name="form_token" value="([\w-]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def rendered(stage: Stage, client: httpx.Client, **asked: Any) -> str:
    """The id of a render that is done."""
    del client
    answer = stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny", **asked})
    assert answer.status_code == 202, answer.text
    render_id = str(answer.json()["id"])
    eventually(lambda: stage.context.views.render(render_id).finished, "it is rendered")
    return render_id


class Page(HTMLParser):
    """What a browser makes of a page: elements, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def is_harmless(self) -> None:
        """Nothing of it is script or style but the farm's own files, and nothing of it comes from elsewhere."""
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
            assert tag not in ("style", "iframe", "object", "embed", "base"), tag
            if tag == "script":
                assert attributes["src"] in ("/assets/htmx.min.js", "/assets/live.js", "/assets/previews.js")
            for name in ("src", "href", "action", "formaction"):
                assert str(attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
                assert not str(attributes.get(name) or "").startswith("//"), (tag, attributes)
