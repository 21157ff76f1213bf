"""`farm schedule list|pause|resume|remove|run-now|history`: schedules that are there."""

from collections.abc import Iterable

import click

from scheduler.cli.output import hint, json_option, print_json, print_table, say
from scheduler.cli.reading import services_to_find, services_to_read
from scheduler.cli.schedule_lines import lines_of, next_words
from scheduler.cli.waiting import reachable_broker
from scheduler.cron.by_hand import run_now
from scheduler.cron.changes import resume_schedule
from scheduler.cron.details import Paces, details
from scheduler.cron.json_forms import FiringForm, ScheduleForm
from scheduler.intake.moments import in_zone
from scheduler.results.outlook import outlook
from scheduler.services import Services
from storage.renders.schedules import Firing, Schedule, Schedules
from storage.settings import read_settings

owner_option = click.option(
    "--owner", metavar="NAME", help="Owner of the schedule (default: FARM_OWNER, else your user name)."
)


@click.command("list")
@click.option("--all", "everybodys", is_flag=True, help="Include all owners.")
@owner_option
@json_option
def list_schedules(everybodys: bool, owner: str | None, as_json: bool) -> None:
    """List your schedules and when they fire next."""
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    services = services_to_read(settings)
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
        if not form.pictures or next_words(form) == "never":
            say(f"schedule {form.name} cannot fire: {'; '.join(form.remarks) or 'its plan has no time to come'}")
    print_table(
        ["NAME", "OWNER", "CRON", "ZONE", "WINDOW", "NEXT", "PICTURES", "LAST"],
        (
            (
                *(form.name, form.owner, form.cron or "once", form.timezone, form.window),
                next_words(form),
                form.pictures,
                next((firing.outcome for firing in schedules.history(one, limit=1)), None),
            )
            for one, form in zip(found, forms, strict=True)
        ),
    )


@click.command()
@click.argument("name")
@owner_option
@json_option
def show(name: str, owner: str | None, as_json: bool) -> None:
    """Show everything about a schedule.

    That is its order, its next times, its limits, its last firings and why it does not fire.
    """
    schedules, found, services = named_schedule(name, owner)
    form = details(schedules, found, Paces(services.registry, services.measures))
    if as_json:
        print_json(form.model_dump())
        return
    for line in lines_of(form):
        click.echo(line)
    for remark in form.remarks:
        say(remark)
    if form.history:
        _print_history(schedules.history(found, limit=len(form.history)), form.timezone)


@click.command()
@click.argument("name")
@owner_option
@json_option
def pause(name: str, owner: str | None, as_json: bool) -> None:
    """Pause a schedule until it is resumed. Idempotent."""
    schedules, found, _ = named_schedule(name, owner)
    schedules.pause(found)
    say_how_it_stands(schedules, found, as_json=as_json)


@click.command()
@click.argument("name")
@owner_option
@json_option
def resume(name: str, owner: str | None, as_json: bool) -> None:
    """Resume a paused schedule. Idempotent."""
    schedules, found, _ = named_schedule(name, owner)
    resume_schedule(schedules, found)
    say_how_it_stands(schedules, found, as_json=as_json)


@click.command()
@click.argument("name")
@owner_option
@json_option
def remove(name: str, owner: str | None, as_json: bool) -> None:
    """Remove a schedule and its history.

    Its renders are kept.
    """
    schedules, found, _ = named_schedule(name, owner)
    held = [render_id for render_id, is_held in schedules.unfinished_renders(found).items() if is_held]
    schedules.remove(found)
    if as_json:
        print_json({"name": name, "removed": True, "held": held})
        return
    click.echo(f"removed schedule {name}; its renders are kept")
    for one in held:
        say(f"render {one} is still held: resume it with `farm release {one}`, or drop it with `farm cancel {one}`")


@click.command("run-now")
@click.argument("name")
@owner_option
@json_option
def run_by_hand(name: str, owner: str | None, as_json: bool) -> None:
    """Fire a schedule once, now.

    Its render is accepted at once, by this command. Its regular times do not change.
    """
    _, found, services = named_schedule(name, owner)
    form = run_now(services, reachable_broker(services), found)
    render = None if form.render_id is None else services.views.render(form.render_id)
    if render is not None:
        form = form.model_copy(update={"why": outlook(services, render)["why"]})
    if as_json:
        print_json(form.model_dump())
    elif render is None:
        click.echo(f"schedule {name} did not fire: {form.note}")
    else:
        until = f", held until its window {found.plan.window} opens" if render.held else ""
        click.echo(f"schedule {name} fired: render {render.id}{until}")
        hint(f"follow it with `farm watch {render.id}`")
        if form.why and not render.held:
            hint(f"it waits: {form.why}")


@click.command()
@click.argument("name")
@click.option(
    "-n", "limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many firings to show."
)
@owner_option
@json_option
def history(name: str, limit: int, owner: str | None, as_json: bool) -> None:
    """List past firings and their outcomes, newest first."""
    schedules, found, _ = named_schedule(name, owner)
    firings = schedules.history(found, limit=limit)
    if as_json:
        print_json([FiringForm.of(firing).model_dump() for firing in firings])
        return
    _print_history(firings, found.plan.timezone)


def _print_history(firings: Iterable[Firing], timezone: str) -> None:
    print_table(
        ["PLANNED", "OUTCOME", "RENDER", "STATE", "NOTE"],
        (
            (
                in_zone(firing.planned_at, timezone),
                firing.outcome,
                firing.render_id,
                firing.render_state,
                firing.note,
            )
            for firing in firings
        ),
    )


def named_schedule(name: str, owner: str | None) -> tuple[Schedules, Schedule, Services]:
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    services = services_to_find(name, settings)
    schedules = Schedules(services.database)
    return schedules, schedules.get(name, owner=settings.owner), services


def say_how_it_stands(schedules: Schedules, before: Schedule, *, as_json: bool) -> None:
    form = ScheduleForm.of(schedules.get(before.name, owner=before.owner), schedules.now())
    if as_json:
        print_json(form.model_dump())
    else:
        told = "has ended" if form.ended else "paused" if form.paused else f"next {next_words(form)}"
        click.echo(f"schedule {form.name}: {told}")


COMMANDS = (list_schedules, show, pause, resume, remove, run_by_hand, history)
