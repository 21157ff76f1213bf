"""When a render may be rendered: not before a moment, and only within a window."""

from scheduler.intake.moments import check_window, check_zone, in_zone, is_open, moment, opens_at
from storage.rules.render_times import RenderTimes


def read_times(
    not_before: str | None, window: str | None, timezone: str, *, now: float
) -> tuple[RenderTimes | None, list[str]]:
    """Read times as they are written; None if there are none, and remarks. Raises BadSpecification naming the field."""
    check_zone(timezone)
    if window is not None:
        check_window(window)
    if not_before is None:
        return (None if window is None else RenderTimes(window=window, timezone=timezone)), []
    at, remark = moment(not_before, timezone, field="not_before")
    remarks = [] if remark is None else [remark]
    if at <= now:
        remarks.append(f"not_before: {in_zone(at, timezone)} is past, so it holds nothing back")
    elif not is_open(window, timezone, at):
        opens = in_zone(opens_at(window, timezone, at), timezone)
        remarks.append(f"not_before: outside the window {window}; the pictures wait until {opens}")
    return RenderTimes(not_before=at, window=window, timezone=timezone), remarks


def is_shut(times: RenderTimes | None, now: float) -> bool:
    """Return whether a render with these times, or with none, is to be held now."""
    return times is not None and not may_render(times, now)


def may_render(times: RenderTimes, now: float) -> bool:
    """Return whether a render may be rendered now. Raises BadSpecification if nobody can say."""
    return (times.not_before is None or now >= times.not_before) and is_open(times.window, times.timezone, now)


def starts_at(times: RenderTimes, now: float) -> float:
    """Return when a render may be rendered, from now on: now, or later. Raises BadSpecification if nobody can say."""
    return opens_at(times.window, times.timezone, max(now, times.not_before or now))
