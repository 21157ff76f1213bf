"""Have what the first visitor of an API process would wait for made before: routes, templates, statements."""

import logging
import time
from threading import Thread

from fastapi import FastAPI
from starlette.types import Message, Scope

from scheduler.api.access import Access
from scheduler.api.list_queries import RenderQuery
from scheduler.api.page.glance import glance
from scheduler.api.page.looks import SharedLook
from scheduler.api.page.serving import read_template
from scheduler.api.renders import list_renders
from storage.errors import ServiceProblem

log = logging.getLogger(__name__)


async def make_routes(app: FastAPI) -> None:
    """Ask for something small: for its first request FastAPI reads all routes, which takes a third of a second."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/healthz",
        "raw_path": b"/healthz",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        "state": {},
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        pass

    await app(scope, receive, send)


def make_front_page(app: FastAPI) -> None:
    """Read, in a thread of its own, what the front page needs; nobody waits for it."""
    Thread(target=_make_front_page, args=(app,), name="front page", daemon=True).start()


def _make_front_page(app: FastAPI) -> None:
    access: Access = app.state.access
    try:
        for name in ("base.html", "parts.html", "front.html"):
            read_template(name)
        look = SharedLook(looks=app.state.looks, since=time.monotonic())
        glance(app.state.context, access.nobody, look)
        list_renders(app.state.context, access.nobody, RenderQuery(), limit=1)
    except ServiceProblem as error:
        # Whoever asks for the page is told.
        log.info("the front page is not made ready", extra={"error": error})
