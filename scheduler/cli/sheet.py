"""`farm sheet`, and the sheet that `farm render --sheet` leaves."""

from pathlib import Path

import click

from scheduler import sheet as contact_sheet
from scheduler.cli.output import json_option, print_json, say
from scheduler.services import Services, open_services
from storage.errors import InvalidInput
from storage.settings import read_settings


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--out", type=click.Path(path_type=Path), default=Path("sheet.png"), show_default=True, metavar="FILE")
@click.option("--columns", type=click.IntRange(1, 50), default=8, show_default=True)
@json_option
def sheet(render_id: str, out: Path, columns: int, as_json: bool) -> None:
    """A contact sheet (PNG) of a render's pictures, each with its prompt and seed."""
    services = open_services(read_settings())
    shown = write_sheet(services, render_id, out, columns=columns)
    if as_json:
        print_json({"render": render_id, "file": str(out), "pictures": shown})


def write_sheet(services: Services, render_id: str, out: Path, *, columns: int = 8) -> int:
    """Write the sheet and say so; how many pictures are on it. Raises InvalidInput where there is none to show."""
    render = services.views.render(render_id)
    if not render.done:
        raise InvalidInput(f"render {render_id} is {render.state} and has no pictures to show")
    tiles = list(contact_sheet.tiles(services.views, services.objects, render_id))
    contact_sheet.write(contact_sheet.draw(tiles, columns=columns), out)
    left_out = "" if len(tiles) == render.done else f", the first of {render.done}"
    say(f"contact sheet {out}: {len(tiles)} pictures{left_out}")
    return len(tiles)
