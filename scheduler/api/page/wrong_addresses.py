"""What a browser gets at an address that is not there: a page, where programs get a problem document."""

from contextlib import suppress

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from scheduler.api.access import let_in
from scheduler.api.page.routes import ROUTERS
from scheduler.api.page.serving import PageRoute, error_page, go_to, root_of
from scheduler.api.problems import Refused
from storage.access.keys import Role


def answer_browsers_with_pages(app: FastAPI) -> None:
    """Have whoever mistypes an address, or reloads that of a form, find the way back. Call it last."""
    as_problem = app.exception_handlers[HTTPException]

    def answered(request: Request, error: HTTPException) -> Response:
        if not _is_lost(request, error):
            return as_problem(request, error)  # type: ignore[return-value]
        if error.status_code == 405:
            return go_to(request, _page_above(request))
        with suppress(Refused):
            # Whose pages are named above the words.
            let_in(request, None, Role.READ)
        return error_page(request, error, as_problem)

    app.add_exception_handler(HTTPException, answered)  # type: ignore[arg-type]


def _is_lost(request: Request, error: HTTPException) -> bool:
    """Return whether a browser asks for a page where there is none: at no address, or at that of a form."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return False
    if request.url.path.startswith(tuple(request.app.state.error_forms)):
        # Of another protocol, in whose form errors are.
        return False
    route = request.scope.get("route")
    return error.status_code == 404 if route is None else error.status_code == 405 and isinstance(route, PageRoute)


def _page_above(request: Request) -> str:
    """Return the page whose form a browser has asked for as if it were a page."""
    pages = [route for router in ROUTERS for route in router.routes if isinstance(route, PageRoute)]
    shown = [page.path_regex for page in pages if "GET" in (page.methods or ())]
    path = request.url.path.removeprefix(root_of(request))
    while path := path.rpartition("/")[0]:
        if any(pattern.match(path) for pattern in shown):
            return path
    return "/"
