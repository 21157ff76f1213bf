"""`farm render`: submit an order, wait for it, fetch its pictures."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from scheduler.cli.order_options import OrderOptions, with_order_options
from scheduler.cli.output import counted, duration, hint, json_option, print_json, say, size
from scheduler.cli.progress import counting
from scheduler.cli.reading import services_to_read
from scheduler.cli.sheet import check_form, write_sheet
from scheduler.cli.time_options import TimeOptions, with_time_options
from scheduler.cli.waiting import reachable_broker, report, report_accepted, see_through
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.estimate import Estimate, estimate
from scheduler.intake.moments import in_zone
from scheduler.intake.order import Order
from scheduler.intake.pace import serving
from scheduler.intake.requests import BadRows
from scheduler.intake.submit import Intake, intake_of, remarks_of, specified, submit_order
from scheduler.intake.times import is_shut, starts_at
from scheduler.results.download import check_folder, prepare_folder
from scheduler.results.json_forms import ExamplePicture
from scheduler.services import Services, open_services
from storage.broker.tickets import Tickets
from storage.errors import BadSpecification, InvalidInput
from storage.renders.schedules import Schedules
from storage.renders.views import RenderView
from storage.rules.names import checked_name, checked_note
from storage.rules.states import Priority
from storage.settings import Settings, read_settings

#: Characters of an example.
_SHOWN_PROMPT = 200
#: Skipped rows that are reported one by one.
_SHOWN_BAD = 20
_PRIORITIES = [priority.name.lower() for priority in reversed(Priority)]


@click.command()
@with_order_options
@with_time_options
@click.option("--priority", type=click.Choice(_PRIORITIES), default="normal", show_default=True, help="Priority.")
@click.option("--owner", metavar="NAME", help="Owner of the render (default: FARM_OWNER, else your user name).")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Also write a contact sheet (.png or .html)."
)
@click.option("--no-wait", is_flag=True, help="Submit, print the render id and return.")
@click.option("--dry-run", is_flag=True, help="Validate everything and estimate the cost; submit nothing.")
@click.option("--skip-bad", is_flag=True, help="Skip invalid rows and report them.")
@click.option("--once", metavar="NAME", help="Idempotency key: a render with the same name is accepted only once.")
@click.option("--name", metavar="NAME", help="What you call the render; commands take it in place of the id.")
@click.option("--note", metavar="TEXT", help="Anything you want to remember about the render.")
@json_option
@click.pass_context
def render(
    context: click.Context,
    /,
    order_options: OrderOptions,
    time_options: TimeOptions,
    priority: str,
    owner: str | None,
    out: Path | None,
    sheet: Path | None,
    no_wait: bool,
    dry_run: bool,
    skip_bad: bool,
    once: str | None,
    name: str | None,
    note: str | None,
    as_json: bool,
) -> None:
    """Render pictures from prompts, a prompt file or templates.

    A row of a prompt file may set any option of a picture. Exits with 1 if a picture failed.
    """
    _check_words(once, name, note)
    _check_results(out, sheet, no_wait=no_wait)
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    with order_options.order(settings) as order:
        services = (services_to_read(settings) if dry_run else open_services(settings)).open_all()
        if order.defaults.get("model"):
            services.registry[order.defaults["model"]]
        bad = BadRows(report=_Report()) if skip_bad else BadRows(together=True)
        terms = dataclasses.replace(_terms_at(services, order, priority, once, time_options), name=name, note=note)
        if dry_run:
            _check_the_rest(services, order, once, out=out, sheet=sheet)
            _say_what_it_takes(services, order, bad, as_json=as_json)
            return
        tickets = reachable_broker(services)
        _prepare_folders(out, sheet)
        _check_store(services)
        with counting("pictures checked") as through:
            intake = _intake(services, tickets, watched=not no_wait)
            accepted = submit_order(intake, _submitter(settings), order, terms, bad=bad, through=through)
        _say_remarks(accepted.remarks, bad)
    if no_wait:
        report_accepted(services, accepted, as_json=as_json, called=tickets is not None)
        return
    outcome = see_through(services, accepted, out=out)
    report(services, outcome, as_json=as_json)
    _draw(services, outcome.render, sheet, order_options.combined)
    context.exit(outcome.exit_code)


def _draw(services: Services, render: RenderView, sheet: Path | None, combined: Sequence[str]) -> None:
    """Write the sheet that was asked for, and say how to see the combinations of values that were."""
    if sheet is not None and render.done:
        write_sheet(services, render.id, sheet)
    varied = [one.partition("=")[0].strip() for one in combined]
    if render.done > 1 and varied:
        # As many as a grid has axes; where there are more of them, these are the first.
        axes = " ".join(f"--{place} {shlex.quote(name)}" for place, name in zip("xyz", varied, strict=False))
        hint(f"`farm grid {render.id} {axes}` draws them as a grid")


def _check_words(once: str | None, name: str | None, note: str | None) -> None:
    """Raise UsageError for what is no idempotency key, no name, or no note."""
    if once is not None and not once.strip():
        raise click.UsageError("--once needs a name, and this one is empty")
    if name is not None and "{" in name:
        raise click.UsageError(f"--name {name!r} names the render; `farm fetch RENDER --name` takes patterns of files")
    for option, text, check in (("--name", name, checked_name), ("--note", note, checked_note)):
        try:
            if text is not None:
                check(text)
        except ValueError as error:
            raise click.UsageError(f"{option}: {error}") from None


def _check_results(out: Path | None, sheet: Path | None, *, no_wait: bool) -> None:
    """Raise UsageError for what is to be made of pictures that nobody waits for, and for a sheet of another form."""
    if no_wait and (out or sheet) is not None:
        option, later = ("--sheet", "sheet") if out is None else ("--out", "fetch")
        raise click.UsageError(f"{option} needs the finished pictures: drop --no-wait, or run `farm {later}` later")
    if sheet is not None:
        check_form(sheet, option="--sheet")


def _prepare_folders(out: Path | None, sheet: Path | None) -> None:
    if out is not None:
        prepare_folder(out)
    if sheet is not None:
        prepare_folder(sheet.absolute().parent, option="--sheet")


def _check_the_rest(
    services: Services, order: Order, once: str | None, *, out: Path | None, sheet: Path | None
) -> None:
    """Refuse what submitting the order would refuse besides: a name that is taken, folders that cannot be written."""
    terms = _terms(order, Priority.NORMAL.name, once)
    services.jobs.accepted_before(terms.submission(_submitter(services.settings)))
    if out is not None:
        check_folder(out)
    if sheet is not None:
        check_folder(sheet.absolute().parent, option="--sheet")


def _terms(order: Order, priority: str, once: str | None) -> Terms:
    return Terms(
        priority=Priority[priority.upper()],
        idempotency_key=once,
        request_hash=None if once is None else order.fingerprint(),
    )


def _terms_at(services: Services, order: Order, priority: str, once: str | None, asked: TimeOptions) -> Terms:
    """Return the terms, with the times that were asked for; what is to be said of those is said."""
    now = Schedules(services.database).now()
    times, remarks = asked.times(now=now)
    for remark in remarks:
        say(remark)
    if times is not None and is_shut(times, now):
        say(f"the render is held until {in_zone(starts_at(times, now), times.timezone)}")
    return dataclasses.replace(_terms(order, priority, once), times=times, held=is_shut(times, now))


def _intake(services: Services, tickets: Tickets | None, *, watched: bool) -> Intake:
    """Return the intake; whoever waits is told by the wait, which looks more closely, who serves the models."""
    intake = intake_of(services, tickets)
    return dataclasses.replace(intake, workers=None) if watched else intake


def _submitter(settings: Settings) -> Submitter:
    return Submitter(owner=settings.owner, local_files=True)


def _say_what_it_takes(services: Services, order: Order, bad: BadRows, *, as_json: bool) -> None:
    with counting("pictures checked") as through:
        intake = intake_of(services, None)
        jobs = specified(intake, _submitter(services.settings), order, bad=bad)
        found = estimate(through(jobs), services.registry, services.measures)
    if not found.pictures:
        raise BadSpecification("nothing to render: no prompt given")
    _say_remarks(remarks_of(intake, jobs), bad)
    devices = len(serving(services.workers, found.models))
    if as_json:
        shown = [ExamplePicture.of(spec).model_dump() for spec in jobs.examples]
        print_json({**dataclasses.asdict(found), "devices": devices, "left_out": bad.left_out, "examples": shown})
        return
    click.echo(f"{counted(found.pictures, 'picture')} in {counted(found.batches, 'batch', 'batches')}")
    _say_how_long(found, devices)
    for spec in jobs.examples:
        click.echo(f"such as {spec.prompt[:_SHOWN_PROMPT]!r}, {spec.model}, {spec.width}×{spec.height}")


def _say_how_long(found: Estimate, devices: int) -> None:
    if found.device_seconds is None or found.bytes is None:
        click.echo(f"no estimate yet: nothing has been rendered with {', '.join(found.models)}")
        return
    takes = f"about {duration(found.device_seconds)} of device time"
    if devices > 1:
        each = duration(found.device_seconds / devices)
        takes += f", {each} on the {devices} devices that serve {', '.join(found.models)}"
    click.echo(f"{takes}; about {size(found.bytes)} of storage")


def _check_store(services: Services) -> None:
    """Check that pictures can be stored, and say what is rendered besides."""
    services.objects.check()
    if services.settings.embedded and (left := services.views.unfinished_jobs()):
        hint(
            f"{counted(left, 'unfinished job')} from earlier renders will be rendered too "
            "(`farm status` lists them, `farm cancel RENDER` cancels them)"
        )


def _say_remarks(noted: Mapping[str, int], bad: BadRows) -> None:
    for remark, pictures in noted.items():
        say(f"{remark} ({counted(pictures, 'picture')})")
    if bad.left_out:
        say(f"{counted(bad.left_out, 'invalid row')} skipped")


class _Report:
    """Report skipped rows: the first ones one by one, the rest only as a number."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, error: InvalidInput) -> None:
        if self._told < _SHOWN_BAD:
            say(f"skipped: {error}")
        elif self._told == _SHOWN_BAD:
            say("skipped: … and more")
        self._told += 1
