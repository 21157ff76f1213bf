"""`farm schedule`: submit renders on a schedule. What becomes of those that are there: `schedules_there.py`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from scheduler.cli import schedules_there
from scheduler.cli.order_options import OrderOptions, checked_fields, with_order_options
from scheduler.cli.output import counted, json_option, print_json, say
from scheduler.cli.plan_options import PRIORITIES, with_plan_options
from scheduler.cli.progress import counting
from scheduler.cli.schedule_lines import next_words
from scheduler.cli.schedules_there import named_schedule, owner_option
from scheduler.cron.changes import PlanChange
from scheduler.cron.edits import Editor, OrderChange
from scheduler.cron.json_forms import ScheduleForm
from scheduler.cron.stored_orders import KeptSource, StoredOrder, store_order
from scheduler.intake.admission import NO_LIMITS, Submitter, Terms
from scheduler.intake.moments import machine_zone
from scheduler.intake.submit import intake_of
from scheduler.services import Services, open_services
from storage.access.keys import Keys
from storage.errors import BadSpecification
from storage.renders.schedules import Plan, Schedule, Schedules
from storage.rules.states import Priority
from storage.settings import read_settings

_at_firing = click.option(
    "--prompts-at-firing",
    metavar="FILE",
    help="Prompt file or s3://BUCKET/KEY that is read anew at each firing.",
)


@click.group()
def schedule() -> None:
    """Submit renders on a schedule.

    For example every night at two, or every Monday. The scheduler process fires them (`farm up`, `farm scheduler`).
    """


for there in schedules_there.COMMANDS:
    schedule.add_command(there)


@schedule.command()
@click.argument("name")
@with_order_options
@_at_firing
@with_plan_options
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="Priority.")
@owner_option
@json_option
def add(
    name: str,
    order_options: OrderOptions,
    prompts_at_firing: str | None,
    change: PlanChange,
    priority: str,
    owner: str | None,
    as_json: bool,
) -> None:
    """Add a schedule.

    The order is checked now and stored, so its files are no longer needed afterwards; but for that of
    --prompts-at-firing, which the scheduler process reads each time, on its machine.
    """
    order_options = _with_source(order_options, prompts_at_firing)
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    services = open_services(settings)
    schedules = Schedules(services.database)
    plan, remarks = change.new(timezone=machine_zone(), now=schedules.now())
    if change.seeds is None and order_options.seed is not None:
        plan = replace(plan, seeds="same")
    kept = _stored(services, order_options, priority, plan).remarked(remarks)
    made = schedules.add(owner=settings.owner, name=name, plan=plan, order=kept.model_dump(mode="json"))
    form = ScheduleForm.of(made, schedules.now())
    for remark in form.remarks:
        say(remark)
    if as_json:
        print_json(form.model_dump())
        return
    zone = f" ({plan.timezone}, this machine's time zone)" if change.timezone is None else ""
    click.echo(_line(form) + zone)
    if settings.embedded:
        say("schedules fire only while a farm runs here: `farm up`")


def _stored(services: Services, order_options: OrderOptions, priority: str, plan: Plan) -> StoredOrder:
    services.objects.check()
    with order_options.order(services.settings) as order, counting("pictures checked"):
        return store_order(
            intake_of(services, None),
            Submitter(owner=services.settings.owner, local_files=True),
            order,
            Terms(priority=Priority[priority.upper()]),
            same_seeds=plan.seeds == "same",
            source=_source(order_options),
        )


def _with_source(order_options: OrderOptions, given: str | None) -> OrderOptions:
    """Return the options with a prompt file that is read at each firing, by its absolute path."""
    if given is None or given.startswith("s3://"):
        return replace(order_options, at_firing=given)
    if given == "-":
        raise BadSpecification("prompts_at_firing: standard input can be read once only; use --prompts -")
    return replace(order_options, at_firing=str(Path(given).absolute()))


def _source(order_options: OrderOptions) -> KeptSource | None:
    if order_options.at_firing is None:
        return None
    return KeptSource(source=order_options.at_firing, kind=order_options.kind, delimiter=order_options.delimiter)


@schedule.command()
@click.argument("name")
@with_order_options
@_at_firing
@with_plan_options
@click.option("--no-window", is_flag=True, help="Render at any time.")
@click.option("--no-limits", is_flag=True, help="Take all limits away, but for those given.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="Priority.")
@owner_option
@json_option
def edit(
    name: str,
    order_options: OrderOptions,
    prompts_at_firing: str | None,
    change: PlanChange,
    no_window: bool,
    no_limits: bool,
    priority: str | None,
    owner: str | None,
    as_json: bool,
) -> None:
    """Change any part of a schedule; all else stays, its history too.

    Prompts replace the prompts; options of a picture apply to all stored prompts. What is firing this moment fires as
    it was, or as it is now.
    """
    if no_window and change.window is not None:
        raise click.UsageError("--window and --no-window exclude each other")
    gone = frozenset(part for part, given in (("window", no_window), ("limits", no_limits)) if given)
    change, order_options = replace(change, without=gone), _with_source(order_options, prompts_at_firing)
    schedules, found, services = named_schedule(name, owner)
    editor = Editor(schedules=schedules, intake=intake_of(services, None), settings=services.settings)
    with _order_change(services, order_options, priority) as order:
        if change == PlanChange() and order == OrderChange():
            raise click.UsageError("nothing to change; see `farm schedule edit --help`, or `farm schedule show NAME`")
        made = editor.edit(found, change, order, _submitter_of(services, found))
    form = ScheduleForm.of(made, schedules.now())
    for remark in form.remarks:
        say(remark)
    if as_json:
        print_json(form.model_dump())
    else:
        click.echo(_line(form))


def _line(form: ScheduleForm) -> str:
    when = (
        "once, and it has ended" if form.ended else f"{'each time, next' if form.cron else 'once,'} {next_words(form)}"
    )
    return f"schedule {form.name}: {counted(form.pictures, 'picture')} {when}"


@contextmanager
def _order_change(services: Services, options: OrderOptions, priority: str | None) -> Iterator[OrderChange]:
    """Yield what was said of the order."""
    source = click.get_current_context().get_parameter_source("pictures_each")
    base = OrderChange(
        pictures_each=options.pictures_each if source is click.core.ParameterSource.COMMANDLINE else None,
        seed=options.seed,
        priority=None if priority is None else Priority[priority.upper()],
    )
    if not options.names_prompts:
        if options.in_step or options.combined or options.random or options.wildcards or options.kind:
            raise click.UsageError(
                "lists of values and templates are changed together with the prompts; give those, too"
            )
        yield replace(base, fields=checked_fields(options.fields, options.seed))
        return
    services.objects.check()
    with options.order(services.settings) as order:
        yield replace(base, prompts=order, source=_source(options))


def _submitter_of(services: Services, schedule: Schedule) -> Submitter:
    """Return who edits: a person at this machine, within the limits of the key that the schedule was added with."""
    key_id = schedule.order.get("key_id")
    key = None if key_id is None else Keys(services.database).usable(key_id)
    limits = NO_LIMITS if key is None else key.limits
    return Submitter(owner=schedule.owner, key_id=key_id, limits=limits, local_files=True)
