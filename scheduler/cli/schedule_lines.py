"""A schedule in words."""

from collections.abc import Iterator

from scheduler.cli.output import counted, duration
from scheduler.cron.json_forms import LimitsForm, OrderForm, ScheduleDetails, ScheduleForm
from scheduler.intake.moments import in_zone


def lines_of(form: ScheduleDetails) -> Iterator[str]:
    """Yield the lines about a schedule, but for its history."""
    when = form.cron if form.cron is not None else f"once, at {in_zone(form.at or 0.0, form.timezone)}"
    window = f", within {form.window}" if form.window else ""
    yield f"schedule {form.name} of {form.owner}: {when} ({form.timezone}){window}"
    yield f"next: {', '.join(in_zone(at, form.timezone) for at in form.next_times) or next_words(form)}"
    if form.why is not None:
        yield f"why: {form.why}"
    yield f"priority {form.priority}, overlap {form.overlap}, catch-up {form.catch_up}, seeds {form.seeds}"
    yield f"limits: {limits_words(form.limits)}"
    if form.prompts_at_firing is not None:
        yield f"prompts: read at each firing from {form.prompts_at_firing}"
    if form.order is not None:
        yield from _order_lines(form.order, form.pictures)


def next_words(form: ScheduleForm) -> str:
    """Say when a schedule fires next."""
    if form.ended:
        return "ended"
    return "paused" if form.paused else in_zone(form.next_at, form.timezone) if form.next_at else "never"


def limits_words(limits: LimitsForm) -> str:
    """Say how much may be fired."""
    parts = [
        f"{value:g} {noun} {per}"
        for value, noun, per in (
            (limits.pictures, "pictures", "each time"),
            (limits.device_minutes, "device minutes", "each time"),
            (limits.pictures_per_day, "pictures", "a day"),
            (limits.device_minutes_per_day, "device minutes", "a day"),
        )
        if value is not None
    ]
    return ", ".join(parts) or "none"


def _order_lines(order: OrderForm, pictures: int) -> Iterator[str]:
    seconds = order.device_seconds
    takes = "how long is unknown" if seconds is None else f"about {duration(seconds)} of device time"
    yield f"order: {counted(pictures, 'picture')} with {', '.join(order.models) or 'unknown models'}, {takes}"
    for prompt in order.prompts:
        yield f"  {prompt if len(prompt) <= 100 else prompt[:99] + '…'}"
    more = pictures - len(order.prompts) * order.n
    if order.prompts and more > 0:
        yield "  …"
    for template in order.templates:
        yield f"  of the template {template}"
    varied = {**order.zip, **order.product}
    said = [f"{name}={value}" for name, value in order.fields.items()]
    said += [f"{name}: {', '.join(map(str, values))}" for name, values in varied.items()]
    if said:
        yield f"  with {'; '.join(said)}"
