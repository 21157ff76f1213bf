"""Build the application: routes, error handling, authentication and request size limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from threading import Event

import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api import (
    agenda,
    archives,
    events,
    fleet,
    grids,
    health,
    histories,
    operators,
    previews,
    problems,
    renders,
    schedules,
    thumbnails,
    webhooks,
    welcome,
)
from scheduler.api.access import Access, Open
from scheduler.api.arriving import STOPPING, BoundedBodies
from scheduler.api.compat import automatic1111, openai_batches, openai_images, replicate, replicate_models
from scheduler.api.compat.absent import instead
from scheduler.api.context import ApiContext
from scheduler.api.cors import cors_options
from scheduler.api.open_api import build_beside_requests
from scheduler.api.page.looks import SharedLooks
from scheduler.api.page.routes import ROUTERS as PAGE_ROUTERS
from scheduler.api.page.wrong_addresses import answer_browsers_with_pages
from scheduler.api.parameters import STREAMED
from scheduler.api.rate_limits import RateLimits
from scheduler.api.ready import make_routes
from scheduler.api.request_ids import RequestIds
from scheduler.api.unread import nothing_unread
from scheduler.api.waiting.permits import FairPermits
from storage.access.keys import Keys
from storage.access.quotas import Quotas

_THREADS = 200
#: Routes of what became of pictures, and of what is made of them when somebody asks.
_PICTURES = (histories, thumbnails, previews, archives, grids)

_DESCRIPTION = """
Renders pictures from prompts on a farm of devices. A **render** is what one call asks for: it is accepted at once and
kept until it is done. Each of its pictures is a **job**, rendered in a batch with similar jobs.

```
curl -H "Authorization: Bearer farm_…" -H "Content-Type: application/json" \\
     -d '{"prompt": "a large red star", "n": 2}' ADDRESS/v1/renders          # returns the render's id
curl -H "Authorization: Bearer farm_…" ADDRESS/v1/renders/ID                 # its state
curl -H "Authorization: Bearer farm_…" ADDRESS/v1/jobs/ID-000000/image -L -o picture.png
```

`farm keys create` creates API keys; until the first one is made, callers on this machine need none. Errors are problem
documents (RFC 9457) that name the wrong field and have a `code` for programs; `GET /problems` describes each. Every
answer has an `X-Request-ID`: the caller's own, if it sent one (up to 128 printable characters), or a new one. A limited
key's POSTs are answered with `RateLimit-Policy`, `RateLimit` and, for requests a minute, OpenAI's
`X-RateLimit-…-Requests`; 429 says in `Retry-After` when to come back.

Webhooks go to public addresses over https. Receivers in your own network need the setting `FARM_WEBHOOK_PRIVATE=true`,
of the API and of the scheduler process.
"""
#: In the order of the documentation page.
_TAGS = {
    "renders": "Submit, follow and change renders.",
    "jobs": "Single pictures and their images.",
    "webhooks": "Signed notifications instead of polling.",
    "schedules": "Recurring renders.",
    "farm": "Files, models, workers and statistics.",
    "OpenAI": "For clients of OpenAI's image and batch APIs: `base_url` is this address plus /v1. Errors are OpenAI's.",
    "AUTOMATIC1111": "For clients of the web UI (`--api`). Errors have the web UI's form.",
    "Replicate": "For clients of Replicate: predictions are renders.",
    "health": "For load balancers and Prometheus; no key required.",
}


def make_api(context: ApiContext, *, without_keys: Open) -> FastAPI:
    """Build the application over a context.

    Args:
        without_keys: whom to let in as long as no API key was ever made.
    """
    # The documentation page is served from here: a farm need not have internet access.
    app = FastAPIOffline(
        title="Diffusion Farm",
        version=version("diffusion-farm"),
        description=_DESCRIPTION,
        openapi_tags=[{"name": name, "description": words} for name, words in _TAGS.items()],
        generate_unique_id_function=lambda route: route.name,
        dependencies=[Depends(nothing_unread)],
        lifespan=_with_threads,
        separate_input_output_schemas=False,
    )
    build_beside_requests(app)
    app.state.context = context
    app.state.looks = SharedLooks()
    settings, database = context.services.settings, context.services.database
    origins = settings.origins
    app.state.access = Access(Keys(database), nobody=settings.owner, without_keys=without_keys, origins=origins)
    openais = dict.fromkeys(("/v1/images", "/v1/batches", "/v1/files/"), openai_images.error)
    webuis = dict.fromkeys(("/sdapi", "/controlnet"), automatic1111.error)
    problems.answer_with_problems(app, {**openais, **webuis}, openai_images.error, instead)
    doors = (openai_images, openai_batches, automatic1111, replicate, replicate_models)
    for room in (renders, *_PICTURES, events, webhooks, schedules, agenda, fleet, operators, *doors, health, welcome):
        app.include_router(room.router)
    for router in PAGE_ROUTERS:
        app.include_router(router)
    app.include_router(automatic1111.extension)
    answer_browsers_with_pages(app)
    webhooks.document_webhooks(app)
    # The last one stands outermost.
    app.add_middleware(FairPermits)
    app.add_middleware(BoundedBodies, access=app.state.access, ending=context.ending)
    app.add_middleware(_Heads)
    app.add_middleware(Faults, ending=context.ending)
    app.add_middleware(RateLimits, quotas=Quotas(database))
    if origins:
        app.add_middleware(CORSMiddleware, **cors_options(origins))
    app.add_middleware(RequestIds)
    return app


@asynccontextmanager
async def _with_threads(app: FastAPI) -> AsyncIterator[None]:
    # Most routes are plain functions, which run in threads; requests that wait for a render hold none.
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    await make_routes(app)
    yield


class _Heads:
    """Answer HEAD as GET wherever an answer ends by itself, and soon: load balancers ask so.

    The server leaves the body out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD" and not scope["path"].endswith(STREAMED):
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class Faults:
    """Answer what nobody expected within all else that belongs to an answer, which has its id and headers then."""

    def __init__(self, app: ASGIApp, *, ending: Event) -> None:
        """Prepare to answer; once `ending` is set, what takes longer than the server has patience is cancelled."""
        self._app = app
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noticed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noticed)
        except asyncio.CancelledError:
            if begun or scope["type"] != "http" or not self._ending.is_set():
                raise
            await problems.answer(Request(scope), 503, STOPPING)(scope, receive, send)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await problems.fault(Request(scope), error)(scope, receive, send)
