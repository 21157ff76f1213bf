"""The options that say when a render may be rendered."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from scheduler.intake.moments import machine_zone
from scheduler.intake.times import read_times
from storage.errors import BadSpecification
from storage.rules.render_times import RenderTimes

_OPTIONS = (
    click.option("--not-before", metavar="TIME", help='Hold the render until then, such as "2026-12-01 02:00".'),
    click.option("--window", metavar="FROM-TO", help="Render only within these hours, such as 01:00-05:00."),
    click.option(
        "--timezone", metavar="ZONE", help="Time zone of --not-before and --window (default: this machine's)."
    ),
)


@dataclass(frozen=True, kw_only=True)
class TimeOptions:
    """The options as given, not checked yet."""

    not_before: str | None
    window: str | None
    timezone: str | None

    def times(self, *, now: float) -> tuple[RenderTimes | None, list[str]]:
        """Return the times, None if there are none, and remarks. Raises BadSpecification."""
        given = self.not_before is not None or self.window is not None
        if self.timezone is not None and not given:
            raise BadSpecification("timezone: says in which zone --not-before and --window are, and neither is given")
        zone = self.timezone or (machine_zone() if given else "UTC")
        times, remarks = read_times(self.not_before, self.window, zone, now=now)
        if given and self.timezone is None:
            remarks = [*remarks, f"times are in {zone}, this machine's time zone"]
        return times, remarks


def with_time_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options to a command, which gets them as one argument, `time_options`."""

    @functools.wraps(command)
    def with_times(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in ("not_before", "window", "timezone")}
        return command(*args, time_options=TimeOptions(**given), **options)

    for decorate in reversed(_OPTIONS):
        with_times = decorate(with_times)
    return with_times
