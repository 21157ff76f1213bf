"""The application's OpenAPI document, built when it is first asked for, and beside other requests."""

import threading
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route


def build_beside_requests(app: FastAPI) -> None:
    """Have the document built in a thread: it takes half a second, several where there is much to do.

    FastAPI builds it between two requests, and everybody waits until it is done.
    """
    building, build = threading.Lock(), app.openapi
    [route] = (route for route in app.routes if isinstance(route, Route) and route.path == app.openapi_url)

    def build_once() -> dict[str, Any]:
        with building:
            return build()

    async def answer(request: Request) -> Response:
        await run_in_threadpool(build_once)
        told: Response = await route.endpoint(request)
        return told

    app.openapi = build_once  # type: ignore[method-assign]
    app.router.routes.remove(route)
    app.add_route(route.path, answer, include_in_schema=False)
