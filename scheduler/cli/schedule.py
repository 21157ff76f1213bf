"""`farm schedule`: submit renders on a schedule. What becomes of those that are there: `schedules_there.py`."""

from dataclasses import replace

import click

from scheduler.cli import schedules_there
from scheduler.cli.order_options import OrderOptions, with_order_options
from scheduler.cli.output import counted, json_option, print_json, say
from scheduler.cli.plan_options import PRIORITIES, with_plan_options
from scheduler.cli.progress import counting
from scheduler.cli.schedules_there import next_words, owner_option
from scheduler.cron.changes import PlanChange
from scheduler.cron.json_forms import ScheduleForm
from scheduler.cron.stored_orders import StoredOrder, store_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.moments import machine_zone
from scheduler.intake.submit import intake_of
from scheduler.services import Services, open_services
from storage.renders.schedules import Plan, Schedules
from storage.rules.states import Priority
from storage.settings import read_settings


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
@with_plan_options
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="Priority.")
@owner_option
@json_option
def add(
    name: str, order_options: OrderOptions, change: PlanChange, priority: str, owner: str | None, as_json: bool
) -> None:
    """Add a schedule.

    The order is checked now and stored, so its files are no longer needed afterwards.
    """
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
    when = "each time, next" if plan.at is None else "once,"
    click.echo(f"schedule {name}: {counted(kept.pictures, 'picture')} {when} {next_words(form)}{zone}")
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
        )
