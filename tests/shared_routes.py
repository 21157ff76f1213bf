"""What FastAPI makes of the API's routes, made once for this process and all that are forked from it."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI

import scheduler.api.app
from scheduler.api.access import Open
from scheduler.api.context import ApiContext
from scheduler.api.ready import make_routes
from scheduler.services import open_services
from storage.settings import Settings

_make_api = scheduler.api.app.make_api
_first: list[FastAPI] = []


def make_api_sharing_routes(context: ApiContext, *, without_keys: Open) -> FastAPI:
    """As `make_api`, of which all applications have the same routes and the same document.

    Each took half a second of a processor for its first request, and as long for the document.
    """
    app = _make_api(context, without_keys=without_keys)
    if _first:
        app.router.routes[:] = _first[0].router.routes
        app.openapi = _first[0].openapi  # type: ignore[method-assign]
    else:
        _first.append(app)
    return app


def whose_routes_are_shared() -> FastAPI:
    """Return the application whose routes and document all others have."""
    return _first[0]


def make_shared_routes(*, document: bool = False) -> None:
    """Make the routes now, and the document: whoever is forked later finds them made."""
    with TemporaryDirectory() as folder:
        services = open_services(Settings(home=Path(folder)), in_memory=True)
        try:
            app = make_api_sharing_routes(ApiContext(services, None), without_keys=Open.TO_NOBODY)
            asyncio.run(make_routes(app))
            if document:
                app.openapi()
        finally:
            services.database.close()


def serve_shared_routes() -> None:
    """Have this process, and all that are forked from it, serve no others."""
    make_shared_routes()
    scheduler.api.app.make_api = make_api_sharing_routes
