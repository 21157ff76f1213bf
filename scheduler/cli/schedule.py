"""`farm schedule`: submit renders on a schedule."""

import click

from scheduler.cli.order_options import OrderOptions, with_order_options
from scheduler.cli.output import counted, json_option, print_json, print_table, say
from scheduler.cli.progress import counting
from scheduler.cli.waiting import reachable_broker
from scheduler.cron.acceptance import acceptance_of
from scheduler.cron.json_forms import FiringForm, RunNowForm, ScheduleForm
from scheduler.cron.plan import check_plan, in_zone, next_time
from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.submit import intake_of
from scheduler.services import Services, open_services
from storage.renders.schedules import Plan, Schedule, Schedules
from storage.rules.states import Priority
from storage.settings import read_settings

_PRIORITIES = ["bulk", "normal", "interactive"]
_owner = click.option(
    "--owner", metavar="NAME", help="Owner of the schedule (default: FARM_OWNER, else your user name)."
)


@click.group()
def schedule() -> None:
    """Submit renders on a schedule.

    For example every night at two, or every Monday. The scheduler process fires them (`farm up`, `farm scheduler`).
    """


@schedule.command()
@click.argument("name")
@with_order_options
@click.option("--cron", required=True, metavar="EXPRESSION", help='When to fire, such as "0 2 * * *" or @daily.')
@click.option(
    "--timezone",
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="Time zone of --cron and --window, such as Europe/Paris.",
)
@click.option(
    "--window",
    metavar="FROM-TO",
    help="Render only within these hours, such as 01:00-06:00; unfinished jobs wait for the next window.",
)
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "cancel"]),
    default="skip",
    show_default=True,
    help="If the previous render is unfinished: skip this one, queue it behind, or cancel the previous one.",
)
@click.option(
    "--catch-up",
    type=click.Choice(["none", "last", "all"]),
    default="none",
    show_default=True,
    help="Which of the firings missed during downtime to make up for.",
)
@click.option(
    "--seeds",
    type=click.Choice(["fresh", "same"]),
    help="Draw new seeds each time, or reuse the same (default: fresh, or same with --seed).",
)
@click.option("--priority", type=click.Choice(_PRIORITIES), default="normal", show_default=True, help="Priority.")
@_owner
@json_option
def add(
    name: str,
    order_options: OrderOptions,
    cron: str,
    timezone: str,
    window: str | None,
    overlap: str,
    catch_up: str,
    seeds: str | None,
    priority: str,
    owner: str | None,
    as_json: bool,
) -> None:
    """Add a schedule.

    The order is checked now and stored, so its files are no longer needed afterwards.
    """
    check_plan(cron, timezone, window)
    seeds = seeds or ("fresh" if order_options.seed is None else "same")
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    services = open_services(settings)
    services.objects.check()
    with order_options.order(settings) as order, counting("pictures checked"):
        kept = store_order(
            intake_of(services, None),
            Submitter(owner=settings.owner, local_files=True),
            order,
            Terms(priority=Priority[priority.upper()]),
            same_seeds=seeds == "same",
        )
    plan = Plan(cron=cron, timezone=timezone, window=window, overlap=overlap, catch_up=catch_up, seeds=seeds)
    schedules = Schedules(services.database)
    made = schedules.add(owner=settings.owner, name=name, plan=plan, order=kept.model_dump(mode="json"))
    for remark in kept.remarks:
        say(remark)
    if as_json:
        print_json(ScheduleForm.of(made, schedules.now()).model_dump())
        return
    coming = next_time(cron, timezone, schedules.now())
    click.echo(
        f"schedule {name}: {counted(kept.pictures, 'picture')} each time, "
        f"next {in_zone(coming, timezone) if coming else 'never'}"
    )
    if settings.embedded:
        say("schedules fire only while a farm runs here: `farm up`")


@schedule.command("list")
@click.option("--all", "everybodys", is_flag=True, help="Include all owners.")
@_owner
@json_option
def list_schedules(everybodys: bool, owner: str | None, as_json: bool) -> None:
    """List your schedules and when they fire next."""
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    services = open_services(settings)
    schedules = Schedules(services.database)
    found, now = schedules.all(owner=None if everybodys else settings.owner), schedules.now()
    if as_json:
        print_json([ScheduleForm.of(one, now).model_dump() for one in found])
        return
    if not found:
        click.echo('no schedules yet; try: farm schedule add nightly --cron "0 2 * * *" "a red star"')
        return
    forms = [ScheduleForm.of(one, now) for one in found]
    for form in forms:
        if not form.pictures or _next(form) == "never":
            say(f"schedule {form.name} cannot fire: {'; '.join(form.remarks) or 'its plan has no time to come'}")
    print_table(
        ["NAME", "OWNER", "CRON", "ZONE", "WINDOW", "NEXT", "PICTURES", "LAST"],
        (
            (
                *(form.name, form.owner, form.cron, form.timezone, form.window),
                _next(form),
                form.pictures,
                next((firing.outcome for firing in schedules.history(one, limit=1)), None),
            )
            for one, form in zip(found, forms, strict=True)
        ),
    )


@schedule.command()
@click.argument("name")
@_owner
@json_option
def pause(name: str, owner: str | None, as_json: bool) -> None:
    """Pause a schedule until it is resumed. Idempotent."""
    schedules, found, _ = _named(name, owner)
    schedules.pause(found)
    _say_how_it_stands(schedules, found, as_json=as_json)


@schedule.command()
@click.argument("name")
@_owner
@json_option
def resume(name: str, owner: str | None, as_json: bool) -> None:
    """Resume a paused schedule. Idempotent."""
    schedules, found, _ = _named(name, owner)
    schedules.resume(found)
    _say_how_it_stands(schedules, found, as_json=as_json)


@schedule.command()
@click.argument("name")
@_owner
@json_option
def remove(name: str, owner: str | None, as_json: bool) -> None:
    """Remove a schedule and its history.

    Its renders are kept.
    """
    schedules, found, _ = _named(name, owner)
    held = [render_id for render_id, is_held in schedules.unfinished_renders(found).items() if is_held]
    schedules.remove(found)
    if as_json:
        print_json({"name": name, "removed": True, "held": held})
        return
    click.echo(f"removed schedule {name}; its renders are kept")
    for one in held:
        say(f"render {one} is still held: resume it with `farm release {one}`, or drop it with `farm cancel {one}`")


@schedule.command("run-now")
@click.argument("name")
@_owner
@json_option
def run_now(name: str, owner: str | None, as_json: bool) -> None:
    """Fire a schedule once, now.

    Its regular times do not change.
    """
    schedules, found, services = _named(name, owner)
    render_id = acceptance_of(services, reachable_broker(services)).fire_by_hand(found)
    last = schedules.history(found, limit=1)
    if as_json:
        print_json(RunNowForm(name=name, render_id=render_id, outcome=last[0].outcome if last else None).model_dump())
    elif render_id is None:
        click.echo(f"schedule {name} did not fire: {last[0].note if last else 'it was removed'}")
    else:
        held = services.views.render(render_id).held
        until = f", held until its window {found.plan.window} opens" if held else ""
        click.echo(f"schedule {name} fired: render {render_id}{until}")


@schedule.command()
@click.argument("name")
@click.option(
    "-n", "limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many firings to show."
)
@_owner
@json_option
def history(name: str, limit: int, owner: str | None, as_json: bool) -> None:
    """List past firings and their outcomes, newest first."""
    schedules, found, _ = _named(name, owner)
    firings = schedules.history(found, limit=limit)
    if as_json:
        print_json([FiringForm.of(firing).model_dump() for firing in firings])
        return
    print_table(
        ["PLANNED", "OUTCOME", "RENDER", "STATE", "NOTE"],
        (
            (
                in_zone(firing.planned_at, found.plan.timezone),
                firing.outcome,
                firing.render_id,
                firing.render_state,
                firing.note,
            )
            for firing in firings
        ),
    )


def _named(name: str, owner: str | None) -> tuple[Schedules, Schedule, Services]:
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    services = open_services(settings)
    schedules = Schedules(services.database)
    return schedules, schedules.get(name, owner=settings.owner), services


def _say_how_it_stands(schedules: Schedules, before: Schedule, *, as_json: bool) -> None:
    form = ScheduleForm.of(schedules.get(before.name, owner=before.owner), schedules.now())
    if as_json:
        print_json(form.model_dump())
    else:
        click.echo(f"schedule {form.name}: next {_next(form)}")


def _next(form: ScheduleForm) -> str:
    return "paused" if form.paused else in_zone(form.next_at, form.timezone) if form.next_at else "never"
