"""Delete one render or one picture for good: `farm delete`."""

import sys

import click

from scheduler.cli.filters import called, is_job
from scheduler.cli.output import counted, json_option, print_json, size
from scheduler.cli.progress import amount_of
from scheduler.cli.reading import services_to_find
from scheduler.results.deletion import Deletion
from scheduler.services import Services
from storage.renders.views import JobView, RenderView
from storage.rules.states import FINAL, State


@click.command()
@click.argument("name", metavar="RENDER|JOB")
@click.option("--yes", is_flag=True, help="Delete without asking for confirmation.")
@json_option
@click.pass_context
def delete(context: click.Context, name: str, yes: bool, as_json: bool) -> None:
    """Delete a render with its pictures, or one picture of it.

    What is unfinished is cancelled first. One with an unfinished export is kept.
    """
    services = services_to_find(name)
    deletion = Deletion(services=services)
    if is_job(name):
        job = services.find_job(name)
        _confirm(context, _shown_job(job), yes=yes, as_json=as_json)
        services.objects.check()
        cancelled = deletion.job(job)
        gone, told, pictures, stored = job.id, f"job {job.id}", int(job.state is State.DONE), job.bytes or 0
    else:
        render = services.find_render(name)
        stored = deletion.rows.bytes_of(render.id)
        _confirm(context, _shown_render(render, stored), yes=yes, as_json=as_json)
        cancelled, pictures = _delete_render(services, deletion, render)
        gone, told = render.id, f"render {render.id}"
    if as_json:
        print_json({"id": gone, "deleted": True, "pictures": pictures, "bytes": stored, "cancelled": cancelled})
        return
    dropped = f", {counted(cancelled, 'job')} cancelled" if cancelled else ""
    click.echo(f"deleted {told}: {counted(pictures, 'picture')}, {size(stored)}{dropped}")


def _delete_render(services: Services, deletion: Deletion, render: RenderView) -> tuple[int, int]:
    """Delete a render; how many jobs were cancelled, and how many pictures are gone."""
    # Before anything is hidden.
    services.objects.check()
    with amount_of(f"delete {render.id}", render.total, "pictures") as show:
        cancelled = deletion.render(render.id, show)
    return cancelled, render.total - cancelled - render.failed - render.cancelled


def _shown_render(render: RenderView, stored: int) -> str:
    left = f"; cancel {counted(render.remaining, 'unfinished job')} of it" if render.remaining else ""
    pictures = f"{counted(render.done, 'picture')}, {size(stored)}"
    return f"delete render {render.id}{called(render)} of {render.owner}: {pictures}{left}"


def _shown_job(job: JobView) -> str:
    left = "" if job.state in FINAL else ", and cancel it"
    return f"delete job {job.id} ({job.spec.prompt[:40]}), which is {job.state}{left}"


def _confirm(context: click.Context, question: str, *, yes: bool, as_json: bool) -> None:
    """Ask. Raises UsageError where nobody can be asked; ends the command with 1 on a no."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise click.UsageError(f"nothing deleted, for nobody can be asked; add --yes to {question}")
    if not click.confirm(f"{question[0].upper()}{question[1:]}, permanently?"):
        context.exit(1)
