"""Wait for a render: one loop for everything that reads rows."""

import time
from collections.abc import Callable
from threading import Event

from storage.renders.views import RenderView, Views

_POLL_SECONDS = 0.1


def wait_for_render(
    views: Views,
    render_id: str,
    *,
    seconds: float | None = None,
    look: Callable[[RenderView], bool] | None = None,
    ending: Event | None = None,
) -> RenderView:
    """Wait until every job of a render is final, or for so many seconds, and return the render.

    Args:
        ending: once it is set, the wait is over.
        look: called with the render as often as it is read, such as to show its progress and to fetch its pictures.
            Returns True if there was something to do: then it is called again at once, and the wait does not end.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    ending = ending or Event()
    while True:
        render = views.render(render_id)
        busy = look is not None and look(render)
        if not busy and render.finished:
            return render
        if ending.is_set() or (deadline is not None and time.monotonic() >= deadline):
            return render
        if not busy:
            ending.wait(_POLL_SECONDS)
