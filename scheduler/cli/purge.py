"""`farm purge`, which deletes old renders, and `farm usage`, which says whose pictures take how much room."""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Sequence

import click

from scheduler.cli.output import amount_of, counted, duration, json_option, print_json, print_table, say, size, when
from scheduler.cli.param_types import Duration
from scheduler.results.purge import Purge
from scheduler.services import open_services
from storage.errors import InvalidInput
from storage.renders.exports import Exports, ExportView
from storage.renders.purge import PurgeCandidate, PurgeRows
from storage.settings import read_settings


@click.command()
@click.option("--older-than", "seconds", type=Duration(), metavar="TIME", help="Finished for longer: 30d, 12h, 8w.")
@click.option("--state", "states", type=click.Choice(["done", "failed", "cancelled"]), multiple=True)
@click.option("--owner", metavar="NAME", help="Of this owner only. Default: everybody's.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Delete them without asking.")
@click.option("--give-up-export", "given_up", metavar="EXPORT", multiple=True, help="Let go of an unfinished export.")
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
    """Delete old renders with their pictures, for good.

    Only finished ones, and none of which an export is not finished. What was interrupted is gone on with.
    """
    settings = read_settings()
    services = open_services(settings)
    purging, exports = PurgeRows(services.database), Exports(services.database)
    for export_id in given_up:
        if not exports.give_up(export_id):
            raise InvalidInput(f"--give-up-export {export_id}: no unfinished export has this id")
    if seconds is None:
        if given_up:
            return
        raise click.UsageError("how old? --older-than 30d")
    # A worker that has lost a job may still be storing its picture for as long as a lease lasts.
    seconds = max(seconds, settings.lease_seconds)
    found, interrupted = purging.old(seconds=seconds, states=states, owner=owner), purging.marked()
    old = [one for one in found if not one.needed]
    kept = [export for export in exports.unfinished() if export.render_id in {one.render_id for one in found}]
    if not as_json:
        _show(old, kept, interrupted, seconds=seconds)
    deleting = not dry_run and bool(old or interrupted)
    if deleting and not yes:
        if as_json or not sys.stdin.isatty():
            say("nothing is deleted yet: --yes deletes them")
            deleting = False
        elif not click.confirm("Delete them for good?"):
            context.exit(1)
    if deleting:
        services.objects.check()
        jobs = sum(one.jobs for one in old)
        with amount_of("purge", jobs, "pictures") as show:
            gone = Purge(purging=purging, objects=services.objects).run(old, show)
        if not as_json:
            click.echo(f"deleted {counted(len(gone), 'render')}")
    if as_json:
        print_json(
            {
                "renders": [dataclasses.asdict(one) for one in old],
                "kept_for_exports": [dataclasses.asdict(export) for export in kept],
                "pictures": sum(one.pictures for one in old),
                "bytes": sum(one.bytes for one in old),
                "deleted": deleting,
            }
        )


@click.command()
@json_option
def usage(as_json: bool) -> None:
    """How much room each owner's pictures take."""
    found = open_services(read_settings()).measures.usage()
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    print_table(
        ["OWNER", "RENDERS", "PICTURES", "SIZE", "OLDEST", "NEWEST"],
        ((one.owner, one.renders, one.pictures, size(one.bytes), when(one.oldest), when(one.newest)) for one in found),
    )


def _show(
    old: Sequence[PurgeCandidate], kept: Sequence[ExportView], interrupted: Sequence[str], *, seconds: float
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
        click.echo(f"nothing to delete has been finished for {duration(seconds)}")
    if interrupted:
        click.echo(f"{counted(len(interrupted), 'render')} whose deletion was interrupted")
    for export in kept:
        say(
            f"kept: render {export.render_id}, whose export to {export.target} is not finished; "
            f"finish it (`farm export`), or `farm purge --give-up-export {export.id}`"
        )
