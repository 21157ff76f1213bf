"""How fast a render advances and when it ends, as its page and the list of renders say it."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

from scheduler.api.context import ApiContext
from scheduler.api.page.looks import SharedLook
from scheduler.results.backlog import seconds_each
from scheduler.results.fleet_seen import FleetSeen
from scheduler.results.json_forms import RenderForm
from scheduler.results.outlook import outlook
from storage.renders.views import RenderView

#: Renders of a list whose place in the queue is counted: of one with very many pictures, that takes long.
_COUNTED = 5


@dataclass(frozen=True, kw_only=True)
class Advancing:
    """A render, and how it advances."""

    form: RenderForm
    #: When it is done, seconds since 1970; None: nobody knows, or it is finished.
    ends_at: float | None = None
    #: Seconds that its pictures take by themselves; None: unknown, or it is finished.
    takes: float | None = None
    #: Pictures a second: expected of what is left, or as they came; None: unknown.
    pace: float | None = None


def advancing(context: ApiContext, render: RenderView, look: SharedLook) -> Advancing:
    """Return how a render advances, read once for all who look at the same moment and may see it."""
    if render.finished_at is not None:
        return _finished(render, render.finished_at)
    expected = look.once(
        ("outlook", render.id), lambda: outlook(context.services, render, FleetSeen(context.services, look.once))
    )
    form = RenderForm.of(render, **expected)
    if not form.seconds_left:
        return Advancing(form=form)
    return Advancing(form=form, ends_at=time.time() + form.seconds_left, pace=render.remaining / form.seconds_left)


def all_advancing(context: ApiContext, renders: Iterable[RenderView], look: SharedLook) -> Iterator[Advancing]:
    """Yield how the renders of a list advance: when the first ones end that are on a device, and what others take."""
    fleet, counted = FleetSeen(context.services, look.once), 0
    for render in renders:
        if render.finished_at is not None or (render.running and counted < _COUNTED):
            counted += render.finished_at is None
            yield advancing(context, render, look)
        else:
            yield _by_itself(render, fleet)


def _by_itself(render: RenderView, fleet: FleetSeen) -> Advancing:
    each = [None if render.held else seconds_each(fleet, model) for model in render.models]
    known = [seconds for seconds in each if seconds]
    if not known or len(known) < len(each):
        return Advancing(form=RenderForm.of(render))
    takes = render.remaining * fmean(known)
    return Advancing(form=RenderForm.of(render), takes=takes, pace=render.remaining / takes)


def _finished(render: RenderView, finished_at: float) -> Advancing:
    lasted = finished_at - render.created_at
    pace = render.done / lasted if render.done and lasted > 0 else None
    return Advancing(form=RenderForm.of(render, seconds_left=0.0), pace=pace)
