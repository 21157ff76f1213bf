"""The options that say when a schedule fires, and how much it may, shared by making and editing one."""

import functools
from collections.abc import Callable
from typing import Any

import click

from scheduler.cron.changes import PlanChange

PRIORITIES = ["bulk", "normal", "interactive"]
_LIMITS = {
    "max_pictures": "pictures",
    "max_device_minutes": "device_minutes",
    "max_pictures_per_day": "pictures_per_day",
    "max_device_minutes_per_day": "device_minutes_per_day",
}
_NAMES = ("cron", "at", "timezone", "window", "overlap", "catch_up", "seeds")
_OPTIONS = (
    click.option("--cron", metavar="EXPRESSION", help='When to fire, such as "0 2 * * *" or @daily.'),
    click.option("--at", metavar="TIME", help='Fire once, such as at "2026-12-01 02:00".'),
    click.option(
        "--timezone",
        metavar="ZONE",
        help="Time zone of --cron, --at and --window, such as Europe/Paris (default: this machine's).",
    ),
    click.option(
        "--window",
        metavar="FROM-TO",
        help="Render only within these hours, such as 01:00-06:00; unfinished jobs wait for the next window.",
    ),
    click.option(
        "--overlap",
        type=click.Choice(["skip", "queue", "cancel"]),
        help="If the previous render is unfinished: skip this one, queue it behind, or cancel the previous one "
        "(default: skip).",
    ),
    click.option(
        "--catch-up",
        type=click.Choice(["none", "last", "all"]),
        help="Which of the firings missed during downtime to make up for (default: none; last with --at).",
    ),
    click.option(
        "--seeds",
        type=click.Choice(["fresh", "same"]),
        help="Draw new seeds each time, or reuse the same (default: fresh, or same with --seed).",
    ),
    click.option("--max-pictures", type=click.IntRange(min=1), metavar="N", help="Do not fire more pictures at once."),
    click.option(
        "--max-pictures-per-day",
        type=click.IntRange(min=1),
        metavar="N",
        help="Do not fire more pictures in a day of the time zone.",
    ),
    click.option(
        "--max-device-minutes",
        type=click.FloatRange(min=0, max=1_000_000, min_open=True),
        metavar="MINUTES",
        help="Do not fire what would take a device longer, by the pace that was measured.",
    ),
    click.option(
        "--max-device-minutes-per-day",
        type=click.FloatRange(min=0, max=1_000_000, min_open=True),
        metavar="MINUTES",
        help="Do not fire more than that in a day of the time zone.",
    ),
)


def with_plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options to a command, which gets them as one argument, `change`."""

    @functools.wraps(command)
    def with_change(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in _NAMES}
        limits = {limit: options.pop(name) for name, limit in _LIMITS.items()}
        change = PlanChange(**given, limits={name: value for name, value in limits.items() if value is not None})
        return command(*args, change=change, **options)

    for decorate in reversed(_OPTIONS):
        with_change = decorate(with_change)
    return with_change
