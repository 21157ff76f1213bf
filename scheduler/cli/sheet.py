"""`farm sheet`, and the sheet that `farm render --sheet` writes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from scheduler.cli.output import counted, hint, json_option, print_json, say
from scheduler.cli.progress import amount_of
from scheduler.cli.reading import services_to_find
from scheduler.results import contact_sheet as contact_sheet
from scheduler.results import html_sheet
from scheduler.results.contact_sheet import Tile
from scheduler.results.picture_checks import PictureChecks
from scheduler.services import Services
from storage.errors import InvalidInput

_PAGES = (".html", ".htm")


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sheet.png"),
    show_default=True,
    metavar="FILE",
    help="A .png image, or an .html page with a search box.",
)
@click.option("--columns", type=click.IntRange(1, 50), default=8, show_default=True, help="Columns of a .png.")
@json_option
def sheet(render_id: str, out: Path, columns: int, as_json: bool) -> None:
    """Draw a contact sheet of a render.

    Each picture is shown with its prompt and seed. Duplicates and nearly black pictures are counted and marked.
    """
    check_form(out)
    services = services_to_find(render_id)
    render_id = services.find_render(render_id).id
    found = write_sheet(services, render_id, out, columns=columns)
    if as_json:
        print_json(
            {
                "render": render_id,
                "file": str(out),
                "pictures": found.pictures,
                "duplicates": found.duplicates,
                "nearly_black": found.dark,
            }
        )


def check_form(out: Path, *, option: str = "--out") -> None:
    """Raise UsageError if a file is named as something else than sheets are."""
    if out.suffix.lower() not in (".png", *_PAGES):
        raise click.UsageError(f"{option} {out}: a sheet is a .png image or an .html page; name the file so")


def write_sheet(services: Services, render_id: str, out: Path, *, columns: int = 8) -> PictureChecks:
    """Write the sheet, say so, and return what was found. Raises InvalidInput if there are no pictures."""
    render = services.views.render(render_id)
    if not render.done:
        raise InvalidInput(f"render {render_id} is {render.state} and has no finished pictures yet")
    page = out.suffix.lower() in _PAGES
    findings = PictureChecks()
    most = html_sheet.MOST if page else contact_sheet.MOST
    tiles = contact_sheet.tiles(services.views, services.objects, render_id, findings=findings, most=most)
    if page:
        with amount_of("pictures", min(render.done, most), "pictures") as show:
            html_sheet.write(_shown(tiles, show), out, title=f"render {render_id} of {render.owner}", findings=findings)
    else:
        drawn = list(tiles)
        contact_sheet.write(contact_sheet.draw(drawn, columns=columns), out)
        if n := contact_sheet.undrawn(drawn):
            say(f"{counted(n, 'prompt')} with characters that no font here draws; `--out sheet.html` makes a page")
    left_out = "" if findings.pictures == render.done else f" (the first of {render.done})"
    remarkable = f"; {findings.words()}" if findings.words() else ""
    hint(f"contact sheet {out}: {findings.pictures} pictures{left_out}{remarkable}")
    return findings


def _shown(tiles: Iterable[Tile], show: Callable[[int], None]) -> Iterator[Tile]:
    for number, tile in enumerate(tiles, start=1):
        yield tile
        show(number)
