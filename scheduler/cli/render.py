"""Commands that make pictures: `farm render`, `retry`, `rerender`; and `farm cancel`, which makes fewer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import click

from scheduler.cli.order_options import OrderOptions, with_order_options
from scheduler.cli.output import counted, counting, duration, json_option, print_json, say, size
from scheduler.cli.sheet import write_sheet
from scheduler.cli.status import render_fields
from scheduler.cli.waiting import reachable_broker, report, report_accepted, see_through
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.estimate import estimate
from scheduler.intake.order import Order
from scheduler.intake.requests import BadRows
from scheduler.intake.submit import Accepted, intake_of, publish_tickets, quanta, specified, submit_order
from scheduler.results.compare import changed, compare
from scheduler.results.download import prepare_folder
from scheduler.services import Services, open_services
from storage.errors import BadSpecification, InvalidInput
from storage.rules.states import Priority, State
from storage.settings import Settings, read_settings

#: Rows that are left out, told of one by one.
_SHOWN_BAD = 20
_PRIORITIES = [priority.name.lower() for priority in reversed(Priority)]


@click.command()
@with_order_options
@click.option("--priority", type=click.Choice(_PRIORITIES), default="normal", show_default=True)
@click.option("--owner", metavar="NAME", help="Whose render this is (FARM_OWNER; default the user's name).")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Write a contact sheet (PNG) as well.")
@click.option("--no-wait", is_flag=True, help="Submit and return; the id is printed.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what it would take, and submit nothing.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows that are wrong, and say which and why.")
@click.option(
    "--once", metavar="NAME", help="Your name for this render: submitted again under it, it is accepted once."
)
@json_option
@click.pass_context
def render(
    context: click.Context,
    /,
    order_options: OrderOptions,
    priority: str,
    owner: str | None,
    out: Path | None,
    sheet: Path | None,
    no_wait: bool,
    dry_run: bool,
    skip_bad: bool,
    once: str | None,
    as_json: bool,
) -> None:
    """Render pictures from prompts, given here, in a file whose rows may set any field, or by templates."""
    if sheet is not None and no_wait:
        raise click.UsageError("--sheet needs the pictures: leave out --no-wait, or make it later with `farm sheet`")
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    with order_options.order(settings) as order:
        services = open_services(settings)
        if order.defaults.get("model"):
            services.registry[order.defaults["model"]]
        bad = BadRows(report=_Report() if skip_bad else None)
        if dry_run:
            _say_what_it_takes(services, order, bad, as_json=as_json)
            return
        tickets = reachable_broker(services)
        if out is not None:
            prepare_folder(out)
        if sheet is not None:
            prepare_folder(sheet.absolute().parent, option="--sheet")
        services.objects.check()
        _say_what_is_left(services)
        terms = Terms(
            priority=Priority[priority.upper()],
            idempotency_key=once,
            request_hash=None if once is None else order.fingerprint(),
        )
        with counting("pictures checked") as through:
            accepted = submit_order(
                *(intake_of(services, tickets), _submitter(settings), order, terms), bad=bad, through=through
            )
        _say_remarks(accepted.remarks, bad)
    if no_wait:
        report_accepted(services, accepted, as_json=as_json, called=tickets is not None)
        return
    outcome = see_through(services, accepted, out=out)
    report(services, outcome, as_json=as_json)
    if sheet is not None and outcome.render.done:
        write_sheet(services, accepted.render_id, sheet)
    context.exit(outcome.exit_code)


def _submitter(settings: Settings) -> Submitter:
    return Submitter(owner=settings.owner, local_files=True)


def _say_what_it_takes(services: Services, order: Order, bad: BadRows, *, as_json: bool) -> None:
    with counting("pictures checked") as through:
        jobs = specified(intake_of(services, None), _submitter(services.settings), order, bad=bad)
        found = estimate(through(jobs), services.registry, services.measures)
    if not found.pictures:
        raise BadSpecification("nothing to render: no prompt was given")
    _say_remarks(jobs.remarks, bad)
    devices = sum(not found.models or set(worker.models) >= set(found.models) for worker in services.workers.all())
    if as_json:
        print_json({**dataclasses.asdict(found), "devices": devices, "left_out": bad.left_out})
        return
    click.echo(f"{counted(found.pictures, 'picture')} in {counted(found.batches, 'batch', 'batches')}")
    if found.device_seconds is None or found.bytes is None:
        click.echo(f"how long it takes is known once something of {', '.join(found.models)} was rendered")
        return
    takes = f"about {duration(found.device_seconds)} of a device"
    if devices > 1:
        takes += f", {duration(found.device_seconds / devices)} on the {devices} that serve {', '.join(found.models)}"
    click.echo(f"{takes}; about {size(found.bytes)} in the store")


def _say_what_is_left(services: Services) -> None:
    if services.settings.embedded and (left := services.views.unfinished_jobs()):
        say(
            f"{counted(left, 'job')} of earlier renders still to go, rendered too (`farm status`, `farm cancel RENDER`)"
        )


def _say_remarks(noted: Mapping[str, int], bad: BadRows) -> None:
    for remark, pictures in noted.items():
        say(f"{remark} ({counted(pictures, 'picture')})")
    if bad.left_out:
        say(f"{counted(bad.left_out, 'row')} left out")


class _Report:
    """Tells of rows that are left out: of the first ones each, of more only how many."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, error: InvalidInput) -> None:
        if self._told < _SHOWN_BAD:
            say(f"left out: {error}")
        elif self._told == _SHOWN_BAD:
            say("left out: … and more")
        self._told += 1


@click.command()
@click.argument("render_id", metavar="RENDER")
@json_option
def cancel(render_id: str, as_json: bool) -> None:
    """Cancel what is not finished of a render. Pictures that are done stay. Harmless to repeat."""
    services = open_services(read_settings())
    services.views.render(render_id)
    cancelled = services.jobs.cancel(render_id)
    after = services.views.render(render_id)
    if as_json:
        print_json({"id": render_id, "state": after.state, "cancelled": cancelled})
    elif cancelled:
        click.echo(
            f"cancelled {counted(cancelled, 'job')} of render {render_id}; {counted(after.done, 'picture')} done before"
        )
    else:
        click.echo(f"render {render_id} is {after.state} already, nothing to cancel")


@click.command()
@click.argument("render_id", metavar="RENDER")
@json_option
def hold(render_id: str, as_json: bool) -> None:
    """Keep what waits of a render out of the queue; what is being rendered goes on. Harmless to repeat."""
    services = open_services(read_settings())
    services.views.render(render_id)
    held = services.jobs.hold(render_id)
    if as_json:
        print_json({**render_fields(services.views.render(render_id)), "held": held})
    else:
        click.echo(f"holds {counted(held, 'job')} of render {render_id}; `farm release {render_id}` lets them go")


@click.command()
@click.argument("render_id", metavar="RENDER")
@json_option
def release(render_id: str, as_json: bool) -> None:
    """Let what is held of a render into the queue again. Harmless to repeat."""
    services = open_services(read_settings())
    services.views.render(render_id)
    released = services.jobs.release(render_id)
    publish_tickets(
        *(services.jobs, services.registry, reachable_broker(services)),
        services.jobs.best_waiting(services.registry.models),
    )
    if as_json:
        print_json({**render_fields(services.views.render(render_id)), "released": released})
    else:
        click.echo(f"released {counted(released, 'job')} of render {render_id}")


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--no-wait", is_flag=True, help="Queue the jobs and return.")
@json_option
@click.pass_context
def retry(context: click.Context, render_id: str, out: Path | None, no_wait: bool, as_json: bool) -> None:
    """Render the failed jobs of a render again, with the same seeds."""
    services = open_services(read_settings())
    services.views.render(render_id)
    models = sorted({job.spec.model for job in services.views.jobs(render_id, state=State.FAILED)})
    for alias in models:
        services.registry[alias]
    if not models:
        say(f"render {render_id} has no failed jobs")
        if as_json:
            print_json(render_fields(services.views.render(render_id)))
        return
    tickets = reachable_broker(services)
    if out is not None:
        prepare_folder(out)
    services.jobs.retry(render_id, quanta=quanta(services.registry))
    publish_tickets(services.jobs, services.registry, tickets, models)
    accepted = Accepted(render_id=render_id, models=tuple(models))
    if no_wait:
        report_accepted(services, accepted, as_json=as_json, called=tickets is not None)
        return
    outcome = see_through(services, accepted, out=out)
    report(services, outcome, as_json=as_json)
    context.exit(outcome.exit_code)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@click.pass_context
def rerender(context: click.Context, job_id: str, as_json: bool) -> None:
    """Make a picture again, in the company in which it was made, and say whether it is identical."""
    settings = read_settings()
    services = open_services(settings)
    job = services.views.job(job_id)
    if job.state is not State.DONE or job.batch_id is None or job.object is None:
        raise InvalidInput(f"job {job_id} is {job.state}: only a picture that was made can be made again")
    batch = services.views.batch(job.batch_id)
    position = batch.job_row_ids.index(job.row_id)
    services.registry[job.spec.model]
    before = services.objects.get(job.object)
    again = submit_order(
        intake_of(services, reachable_broker(services)),
        _submitter(settings),
        Order(specs=tuple(services.views.specs(batch))),
        Terms(priority=Priority.INTERACTIVE, together=True),
    )
    see_through(services, again)
    twin = services.views.job(f"{again.render_id}-{position}")
    if twin.object is None:
        raise InvalidInput(f"the twin of job {job_id}, job {twin.id}, is {twin.state}: {twin.error}")
    verdict = compare(before, services.objects.get(twin.object))
    why = changed(batch.recipe, services.views.batch(twin.batch_id).recipe) if twin.batch_id else []
    if as_json:
        sums = [job.sha256, twin.sha256]
        print_json({"job": job.id, "again": twin.id, "sha256": sums, **verdict.fields(), "changed": why})
    else:
        click.echo(f"{twin.id} is {verdict.words()} {job.id} (rendered in a batch of {len(batch.job_row_ids)})")
        for change in why:
            click.echo(f"made with another {change}")
    context.exit(0 if verdict.identical else 1)
