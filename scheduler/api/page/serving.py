"""Answer with pages: templates, the headers that keep a page to itself, errors that people read."""

import json
import secrets
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from scheduler.api.access import Access, caller_of
from scheduler.api.page import words
from scheduler.api.page.looks import SharedLook
from scheduler.api.problems import Refused
from scheduler.api.sessions import forget_said, said_before, say_next
from storage.access.keys import Role
from storage.errors import FarmError
from storage.rules.states import PRIORITY_NAMES

#: Nothing but what this farm serves, and nothing written into a page: whatever a prompt says stays text.
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The back button asks again: what it showed may be cancelled since.
    "Cache-Control": "no-store",
}
_ASSETS = {
    "style.css": "text/css",
    "live.js": "text/javascript",
    "previews.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
#: Stands in a page that is made for several visitors where each has the token of its own forms. No prompt can name it.
_TOKEN = secrets.token_urlsafe(24)
#: Of `scheduler.api.page.words`.
_FILTERS = ("duration", "rate", "size", "moment", "iso", "shortened", "as_json", "as_line", "counted")
_SEE_OTHER = 303
#: In a form: many fields, and a prompt that is far too long comes back with a word.
_MOST_FILES, _MOST_FIELDS, _MOST_FIELD_BYTES = 4, 64, 2**23


#: Makes the API's answer to an error.
Handler = Callable[[Request, Any], Any]


class PageRoute(APIRoute):
    """A route whose errors are pages, and whose empty parameters are none: forms send all their fields."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that answers with a page, whatever happens."""
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            given = parse_qsl(request.scope["query_string"].decode("latin-1"))
            request.scope["query_string"] = urlencode(given).encode()
            try:
                return await handle(_PageRequest(request.scope, request.receive))
            except (FarmError, RequestValidationError, HTTPException) as error:
                return await run_in_threadpool(error_page, request, error)

        return handle_as_page


class _PageRequest(Request):
    def form(self, **_limits: Any) -> Any:
        return super().form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES)


def page_router() -> APIRouter:
    """Return a router of pages, which no document of the API lists."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("scheduler.api.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update({name: getattr(words, name) for name in _FILTERS})
    made.globals |= {"priorities": list(PRIORITY_NAMES.values()), "limit_words": words.LIMITS}
    return made


def read_template(name: str) -> None:
    """Read a template before it is needed."""
    _templates().get_template(name)


def html(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page."""
    said = _said(request)
    return _answered(request, _made(request, template, said, values), said, status)


def shared_html(request: Request, template: str, look: SharedLook, values: Callable[[], Mapping[str, Any]]) -> Response:
    """Return a page that several visitors look at, made once for all of the same rights."""
    caller, said = caller_of(request.scope), _said(request)

    def made() -> str:
        return _made(request, template, said, values())

    if caller is None or said is not None:
        return _answered(request, made(), said)
    # What the page shows of who looks: not the key, of which there may be several.
    who = (caller.owner, caller.role, caller.key_id is None)
    asked = (root_of(request), request.url.path, request.url.query)
    return _answered(request, look.once(("page", template, who, asked), made), None)


def _said(request: Request) -> str | None:
    # A part that is put in place of another shows none of it: it is for the page that comes next.
    return None if request.headers.get("hx-request") else said_before(request)


def _made(request: Request, template: str, said: str | None, values: Mapping[str, Any]) -> str:
    caller = caller_of(request.scope)
    shown = {
        "root": root_of(request),
        "caller": caller,
        "admin": caller is not None and caller.role is Role.ADMIN,
        "may_submit": caller is not None and caller.role.covers(Role.SUBMIT),
        "form_token": _TOKEN,
        "said": said,
        "address": request.url.path,
    }
    if hidden := shown.keys() & values.keys():
        raise TypeError(f"{template}: {', '.join(sorted(hidden))} mean something else on every page")
    return _templates().get_template(template).render(shown | dict(values))


def _answered(request: Request, page: str, said: str | None, status: int = 200) -> Response:
    """Send a page to a visitor, with its own token in its forms."""
    access: Access = request.app.state.access
    token, visit = access.sessions.form_token(request), ""
    if not token:
        visit, token = access.sessions.visit()
    response = HTMLResponse(page.replace(_TOKEN, token), status, _HEADERS)
    if visit:
        access.sessions.note_visit(request, response, visit)
    if said is not None:
        forget_said(request, response)
    return response


def root_of(request: Request) -> str:
    """Return what stands before each address, where a proxy serves the farm below a path of its own."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def go_to(request: Request, path: str, said: str | None = None) -> Response:
    """Lead a browser on after a form, to a page that says what was done."""
    response = RedirectResponse(f"{root_of(request)}{path}", _SEE_OTHER, {"Cache-Control": "no-store"})
    if said is not None:
        say_next(request, response, said)
    return response


def error_page(request: Request, error: Exception, told: Handler | None = None) -> Response:
    """Return the page of an error: what the API would answer, in its words; whoever is to log in is led there.

    Args:
        told: makes the API's answer; None: what does so for errors of this kind.
    """
    if isinstance(error, Refused) and error.status == 401:
        return _log_in(request)
    problem = problem_of(request, error, told)
    headers = {} if problem["retry"] is None else {"Retry-After": problem["retry"]}
    if request.headers.get("hx-request") and problem["status"] == 404:
        # Deleted while it is looked at: the whole page says so, not a part of it that is left as it was.
        headers["HX-Refresh"] = "true"
    page = html(request, "error.html", status=problem["status"], problem=problem)
    page.headers.update(headers)
    return page


def problem_of(request: Request, error: Exception, told: Handler | None = None) -> dict[str, Any]:
    """Return what the API says of an error; `told` as in `error_page`."""
    app: FastAPI = request.app
    handlers: Mapping[Any, Any] = app.exception_handlers
    handle = told or next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    answer = handle(request, error)
    said: dict[str, Any] = json.loads(answer.body)
    return {**said, "status": answer.status_code, "retry": answer.headers.get("Retry-After")}


def _log_in(request: Request) -> Response:
    path = request.url.path.removeprefix(root_of(request))
    query = request.scope["query_string"].decode("latin-1")
    place = f"{path}?{query}" if query else path
    address = "/login" if request.method != "GET" or place == "/" else f"/login?next={quote(place, safe='')}"
    if request.headers.get("hx-request"):
        # Asked for by a page that is open, whose login has ended: the whole page goes there.
        return Response(status_code=401, headers={"HX-Redirect": f"{root_of(request)}{address}"})
    return go_to(request, address)


assets = page_router()


@assets.get("/assets/{name}")
def get_asset(name: str) -> Response:
    """Return a file that pages use."""
    if name not in _ASSETS:
        raise HTTPException(404)
    data = _asset(name)
    headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type=_ASSETS[name], headers=headers)


@cache
def _asset(name: str) -> bytes:
    return files("scheduler.api.page").joinpath("assets", name).read_bytes()
