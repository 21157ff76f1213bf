"""Waiting for a render: its counters as they change, its pictures as they come."""

import time
from collections.abc import Callable

from scheduler.results.download import Downloads
from storage.renders.views import RenderView, Views

_POLL_SECONDS = 0.25


def follow(
    views: Views, render_id: str, *, downloads: Downloads | None, show: Callable[[RenderView], None]
) -> RenderView:
    """Return when every job of the render is final and, with `downloads`, every picture is here."""
    seen: RenderView | None = None
    while True:
        render = views.render(render_id)
        show(render)
        fetched = downloads.advance() if downloads and (render != seen or render.finished) else 0
        if render.finished and not fetched:
            return render
        seen = render
        if not fetched:
            time.sleep(_POLL_SECONDS)
