"""How fast a render advances and when it ends, as its page and the list of renders say it."""

import time
from dataclasses import dataclass

from scheduler.api.context import ApiContext
from scheduler.api.page.looks import SharedLook
from scheduler.results.fleet_seen import FleetSeen
from scheduler.results.json_forms import RenderForm
from scheduler.results.outlook import outlook
from storage.renders.views import RenderView


@dataclass(frozen=True, kw_only=True)
class Advancing:
    """A render, and how it advances."""

    form: RenderForm
    #: When it is done, seconds since 1970; None: nobody knows, or it is finished.
    ends_at: float | None
    #: Pictures a second: expected of what is left, or as they came; None: unknown.
    pace: float | None

    @property
    def left(self) -> int:
        """How many of its pictures are neither done, failed nor cancelled."""
        return self.form.total - self.form.done - self.form.failed - self.form.cancelled


def advancing(context: ApiContext, render: RenderView, look: SharedLook) -> Advancing:
    """Return how a render advances, read once for all who look at the same moment and may see it."""
    if render.finished_at is not None:
        form = RenderForm.of(render, seconds_left=0.0)
        return Advancing(form=form, ends_at=None, pace=_as_it_came(form, render.finished_at))
    expected = look.once(
        ("outlook", render.id), lambda: outlook(context.services, render, FleetSeen(context.services, look.once))
    )
    form = RenderForm.of(render, **expected)
    seconds = form.seconds_left or None
    return Advancing(
        form=form,
        ends_at=None if seconds is None else time.time() + seconds,
        pace=None if seconds is None else render.remaining / seconds,
    )


def _as_it_came(render: RenderForm, finished_at: float) -> float | None:
    """Return the pictures a second of a finished render; None if they are not told."""
    lasted = finished_at - render.created_at
    return render.done / lasted if render.done and lasted > 0 else None
