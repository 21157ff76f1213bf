"""`farm purge` deletes old renders; `farm usage` shows how much storage each owner uses."""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Sequence

import click

from scheduler.cli.output import counted, duration, json_option, print_json, print_table, say, size, when
from scheduler.cli.param_types import Duration
from scheduler.cli.progress import amount_of
from scheduler.cli.reading import services_to_read
from scheduler.results.purge import Purge, UploadPurge
from scheduler.services import Services
from storage.access.uploads import OldUpload
from storage.errors import InvalidInput
from storage.objects.probe import remove_old_probes
from storage.renders.exports import Exports, ExportView
from storage.renders.purge import PurgeCandidate, PurgeRows
from storage.settings import read_settings


@click.command()
@click.option(
    "--older-than",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="Delete renders finished longer ago than this: 12h, 30d, 8w.",
)
@click.option(
    "--state",
    "states",
    type=click.Choice(["done", "failed", "cancelled"]),
    multiple=True,
    help="Only renders in this state; repeatable.",
)
@click.option("--owner", metavar="NAME", help="Only renders of this owner (default: all owners).")
@click.option("--dry-run", is_flag=True, help="List what would be deleted; delete nothing.")
@click.option("--yes", is_flag=True, help="Delete without asking for confirmation.")
@click.option(
    "--give-up-export",
    "given_up",
    metavar="EXPORT",
    multiple=True,
    help="Abandon an unfinished export, so that its render can be deleted.",
)
@json_option
@click.pass_context
def purge(
    context: click.Context,
    /,
    seconds: float | None,
    states: Sequence[str],
    owner: str | None,
    dry_run: bool,
    yes: bool,
    given_up: Sequence[str],
    as_json: bool,
) -> None:
    """Delete old renders and their pictures, and old uploads that nothing needs.

    Only finished renders are deleted, and none with an unfinished export. An upload stays as long as a job, a schedule
    or a batch names it, and for at least a day after it was stored or used; with --state, all stay. An interrupted
    purge resumes on the next run.
    """
    settings = read_settings()
    services = services_to_read(settings)
    purging, exports = PurgeRows(services.database), Exports(services.database)
    _give_up(exports, given_up)
    if seconds is None:
        if given_up:
            return
        raise click.UsageError("missing option --older-than, such as --older-than 30d")
    # A worker that has lost a job may still be storing its picture for as long as a lease lasts.
    seconds = max(seconds, settings.lease_seconds)
    found, interrupted = purging.old(seconds=seconds, states=states, owner=owner), purging.marked()
    old = [one for one in found if not one.needed]
    kept = [export for export in exports.unfinished() if export.render_id in {one.render_id for one in found}]
    of_uploads = None if states else UploadPurge(uploads=services.uploads, seconds=seconds, owner=owner)
    going = {one.render_id for one in old} | set(interrupted)
    unneeded = of_uploads.unneeded(without=going) if of_uploads else []
    if not as_json:
        _show(old, kept, interrupted, unneeded, seconds=seconds)
    deletable = bool(going or unneeded)
    deleting = not dry_run and deletable and (yes or _confirmed(context, as_json=as_json))
    if deleting or not (dry_run or deletable):
        _delete(services, old, of_uploads, say_so=deleting and not as_json)
    if as_json:
        print_json(
            {
                "renders": [dataclasses.asdict(one) for one in old],
                "uploads": [dataclasses.asdict(one) for one in unneeded],
                "kept_for_exports": [dataclasses.asdict(export) for export in kept],
                "pictures": sum(one.pictures for one in old),
                "bytes": sum(one.bytes for one in old),
                "deleted": deleting,
            }
        )


@click.command()
@json_option
def usage(as_json: bool) -> None:
    """Show how much storage each owner uses."""
    found = services_to_read().measures.usage()
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    print_table(
        ["OWNER", "RENDERS", "PICTURES", "SIZE", "OLDEST", "NEWEST"],
        ((one.owner, one.renders, one.pictures, size(one.bytes), when(one.oldest), when(one.newest)) for one in found),
    )


def _delete(services: Services, old: Sequence[PurgeCandidate], of_uploads: UploadPurge | None, *, say_so: bool) -> None:
    """Delete what there is to delete; uploads of an earlier version are noted, to be judged later."""
    services.objects.check()
    jobs = sum(one.jobs for one in old)
    with amount_of("purge", jobs, "pictures") as show:
        purge = Purge(
            purging=PurgeRows(services.database),
            objects=services.objects,
            spared_seconds=services.settings.lease_seconds,
        )
        gone = purge.run(old, show)
    uploads = of_uploads.run() if of_uploads else []
    remove_old_probes(services.objects)
    if say_so:
        click.echo(f"deleted {counted(len(gone), 'render')}, {counted(len(uploads), 'upload')}")


def _give_up(exports: Exports, ids: Sequence[str]) -> None:
    for export_id in ids:
        if not exports.give_up(export_id):
            raise InvalidInput(f"--give-up-export {export_id}: no unfinished export with this id")


def _confirmed(context: click.Context, *, as_json: bool) -> bool:
    """Ask a person; where there is none to ask, say so and return False. Exits with 1 on a no."""
    if as_json or not sys.stdin.isatty():
        say("nothing deleted; add --yes to delete")
        return False
    if not click.confirm("Delete them permanently?"):
        context.exit(1)
    return True


def _show(
    old: Sequence[PurgeCandidate],
    kept: Sequence[ExportView],
    interrupted: Sequence[str],
    uploads: Sequence[OldUpload],
    *,
    seconds: float,
) -> None:
    by_owner: defaultdict[str, list[PurgeCandidate]] = defaultdict(list)
    for one in old:
        by_owner[one.owner].append(one)
    for owner, theirs in sorted(by_owner.items()):
        pictures, stored = sum(one.pictures for one in theirs), sum(one.bytes for one in theirs)
        click.echo(
            f"{owner}: {counted(len(theirs), 'render')}, {counted(pictures, 'picture')}, {size(stored)} "
            f"({', '.join(one.render_id for one in theirs[:5])}{' …' if len(theirs) > 5 else ''})"
        )
    if not old:
        click.echo(f"no deletable render finished more than {duration(seconds)} ago")
    if interrupted:
        click.echo(f"resuming the interrupted deletion of {counted(len(interrupted), 'render')}")
    if uploads:
        takes = size(sum(one.bytes for one in uploads))
        click.echo(f"{counted(len(uploads), 'upload')} that nothing needs any more, {takes}")
    for export in kept:
        say(
            f"kept: render {export.render_id}: its export to {export.target} is unfinished; "
            f"finish it with `farm export`, or abandon it with `farm purge --give-up-export {export.id}`"
        )
