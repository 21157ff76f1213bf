"""`farm grid`: a sheet whose axes are the fields that differ."""

from collections.abc import Iterable
from pathlib import Path

import click

from scheduler.cli.filters import label_option, read_labels
from scheduler.cli.output import counted, hint, json_option, print_json, say
from scheduler.cli.progress import amount_of
from scheduler.cli.reading import services_to_find
from scheduler.results import contact_sheet
from scheduler.results.grid_axes import PLACES, grid_of
from scheduler.results.grid_sheet import LEAST_SIDE, MOST_SIDE, SIDE, GridSheet, title_of


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--x", metavar="FIELD", help="Field or label of the columns, such as steps.")
@click.option("--y", metavar="FIELD", help="Field or label of the rows, such as sampler.")
@click.option("--z", metavar="FIELD", help="Field or label of the blocks, such as model.")
@label_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("grid.png"),
    show_default=True,
    metavar="FILE",
    help="A .png image.",
)
@click.option(
    "--cell",
    type=click.IntRange(LEAST_SIDE, MOST_SIDE),
    default=SIDE,
    show_default=True,
    metavar="PIXELS",
    help="The longest side of a picture.",
)
@json_option
def grid(
    render_id: str,
    x: str | None,
    y: str | None,
    z: str | None,
    labels: Iterable[str],
    out: Path,
    cell: int,
    as_json: bool,
) -> None:
    """Draw a grid of a render, labelled by the fields that differ.

    Without --x, --y and --z these are chosen, where up to three differ. Pictures that are missing or failed are shown
    as such.
    """
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"--out {out}: a grid is a .png image; `farm sheet` also makes pages")
    services = services_to_find(render_id)
    render = services.find_render(render_id)
    named = {place: name for place, name in zip(PLACES, (x, y, z), strict=True) if name is not None}
    found = grid_of(services.views, render.id, named, read_labels(labels))
    sheet = GridSheet(grid=found, objects=services.objects, title=title_of(render), side=cell)
    with amount_of("pictures", found.pictures, "pictures") as show:
        contact_sheet.write(sheet.draw(show), out)
    if as_json:
        axes = {place: axis.title or None for place, axis in zip(PLACES, (found.x, found.y, found.z), strict=True)}
        within = list(found.within)
        print_json({"render": render.id, "file": str(out), "pictures": found.pictures, **axes, "within_cells": within})
    hint(f"grid {out}: {counted(found.pictures, 'picture')}, {sheet.notes()[0]}")
    for note in sheet.notes()[1:]:
        say(note)
