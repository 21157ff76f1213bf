"""Back to one's pictures: `farm fetch` downloads those of a render, `farm watch` follows one that runs."""

from pathlib import Path

import click

from scheduler.cli.archive import write_archive
from scheduler.cli.output import counted, hint, json_option, print_json
from scheduler.cli.progress import amount_of
from scheduler.cli.reading import services_to_find
from scheduler.cli.sheet import write_sheet
from scheduler.cli.waiting import FinishedRender, reachable_broker, report, say_renamed, see_through
from scheduler.intake.submit import Accepted
from scheduler.results.download import Downloads, prepare_folder
from scheduler.results.file_names import DEFAULT, FileNames
from scheduler.services import Services
from storage.errors import InvalidInput
from storage.renders.views import RenderView

_NAME_HELP = (
    f"Names of the files (default: {DEFAULT}): {{index}}, {{seed}}, {{render}}, {{model}}, {{prompt:40}} (its first 40 "
    "characters), {custom_id} (the index, where a row has none); `/` makes folders."
)


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--name", metavar="PATTERN", help=_NAME_HELP)
@click.option(
    "--zip", "archive", type=click.Path(path_type=Path), metavar="FILE", help="Write one ZIP archive instead."
)
@json_option
@click.pass_context
def fetch(
    context: click.Context, render_id: str, out: Path | None, name: str | None, archive: Path | None, as_json: bool
) -> None:
    """Download the pictures of a render, to a folder or as one archive.

    Those that are finished; what is in the folder already is not downloaded again. No other file is overwritten: a
    picture whose name is taken gets the render in its name.
    """
    if (out is None) == (archive is None):
        raise click.UsageError("give a folder (--out DIR) or an archive (--zip FILE)")
    if name is not None and out is None:
        raise click.UsageError("--name names the files of --out DIR; in an archive they are INDEX-SEED.png")
    names = None if name is None else FileNames(name)
    services = services_to_find(render_id)
    render = services.find_render(render_id)
    if not render.done:
        raise InvalidInput(f"render {render.id} is {render.state} and has no finished pictures yet")
    missing = 0 if archive is None else write_archive(services, render, archive, as_json=as_json)
    if out is not None:
        _fetch_to(services, render, out, names, as_json=as_json)
    if render.remaining:
        hint(
            f"{counted(render.remaining, 'job')} of the render not finished; `farm watch {render.id}"
            + ("` waits for them" if out is None else f" --out {out}` downloads their pictures as they are")
        )
    context.exit(1 if missing else 0)


def _fetch_to(services: Services, render: RenderView, out: Path, names: FileNames | None, *, as_json: bool) -> None:
    render_id = render.id
    prepare_folder(out)
    downloads = _fetched(services, render, out, names)
    n = downloads.found + downloads.written
    if as_json:
        print_json({"render": render_id, "out": str(out), "pictures": n, "downloaded": downloads.written})
    else:
        there = f" ({counted(downloads.found, 'picture')} there already)" if downloads.found else ""
        click.echo(f"{counted(n, 'picture')} of render {render_id} in {out}{there}")
    say_renamed(out, downloads.renamed)


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--name", metavar="PATTERN", help=_NAME_HELP)
@click.option(
    "--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Also write a contact sheet (.png or .html)."
)
@json_option
@click.pass_context
def watch(
    context: click.Context, render_id: str, out: Path | None, name: str | None, sheet: Path | None, as_json: bool
) -> None:
    """Follow a render until it is finished.

    As `farm render` does that submitted it: with its progress, and exit code 1 if a picture failed. Ctrl-C leaves it.
    """
    if name is not None and out is None:
        raise click.UsageError("--name names the files of --out DIR; give a folder")
    names = None if name is None else FileNames(name)
    services = services_to_find(render_id).open_all()
    render = services.find_render(render_id)
    render_id = render.id
    if out is not None:
        prepare_folder(out)
    if sheet is not None:
        prepare_folder(sheet.absolute().parent, option="--sheet")
    if render.held:
        hint(f"render {render_id} is held; `farm release {render_id}` resumes it")
    outcome = _outcome(services, render, out, names)
    report(services, outcome, as_json=as_json)
    if sheet is not None and outcome.render.done:
        write_sheet(services, render_id, sheet)
    context.exit(outcome.exit_code)


def _outcome(services: Services, render: RenderView, out: Path | None, names: FileNames | None) -> FinishedRender:
    """Wait for a render, unless it is finished: that needs no farm."""
    if not render.finished:
        reachable_broker(services)
        models = tuple(services.views.unfinished_models(render.id))
        return see_through(services, Accepted(render_id=render.id, models=models), out=out, names=names)
    renamed = _fetched(services, render, out, names).renamed if out is not None else {}
    return FinishedRender(render=render, seconds=None, out=out, names=names, renamed=renamed)


def _fetched(services: Services, render: RenderView, out: Path, names: FileNames | None) -> Downloads:
    downloads = Downloads(services.views, services.objects, render.id, out, names=names)
    with amount_of(f"render {render.id}", render.done, "pictures") as show:
        downloads.fetch_finished(show)
    return downloads
