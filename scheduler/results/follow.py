"""Wait for a render: the loop of the commands. The API waits for many at once (`scheduler.api.waiting`)."""

import time
from collections.abc import Callable

from storage.renders.views import RenderView, Views

_POLL_SECONDS = 0.1


def wait_for_render(views: Views, render_id: str, *, look: Callable[[RenderView], bool]) -> RenderView:
    """Wait until every job of a render is final, and return the render.

    Args:
        look: called with the render as often as it is read, such as to show its progress and to fetch its pictures.
            Returns True if there was something to do: then it is called again at once, and the wait does not end.
    """
    while True:
        render = views.render(render_id)
        busy = look(render)
        if not busy and render.finished:
            return render
        if not busy:
            time.sleep(_POLL_SECONDS)
