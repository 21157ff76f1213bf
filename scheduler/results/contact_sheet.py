"""Contact sheets: the pictures of a render at a glance, each with its prompt and seed."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from scheduler.results.drawing import INK, MARK, PALE, PAPER, fitted, wrapped
from scheduler.results.fonts import font_for
from scheduler.results.picture_checks import PictureChecks
from storage.errors import InvalidInput
from storage.objects.pixels import without_alpha
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views
from storage.rules.states import State

#: Pictures on one sheet: what a person can take in, and what keeps the file small.
MOST = 200

#: Three times the width of the shipped model's pictures.
_CELL = 192
_GAP = 12
_CAPTION_LINES = 3
_LINE = 13
_FONT_SIZE = 11


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a sheet, as a PNG file, and what is written below it."""

    picture: bytes
    prompt: str
    note: str
    #: What is remarkable about it (`scheduler.results.picture_checks`).
    remarks: Sequence[str] = ()


def tiles(
    views: Views, objects: ObjectStore, render_id: str, *, findings: PictureChecks, most: int = MOST
) -> Iterator[Tile]:
    """Yield the finished pictures of a render, at most the first `most`; `findings` checks each."""
    for job in islice(views.jobs(render_id, state=State.DONE), most):
        if job.object is not None:
            data = objects.get(job.object)
            with Image.open(io.BytesIO(data)) as picture:
                remarks = findings.look(f"{job.index:06d}", job.spec, picture)
            yield Tile(picture=data, prompt=job.spec.prompt, note=_note(job), remarks=remarks)


def draw(tiles: Iterable[Tile], *, columns: int = 8) -> Image.Image:
    """Draw the tiles in rows; small pictures are magnified by whole factors, so that every pixel stays sharp.

    Raises ValueError without any tile.
    """
    cells = [_cell(tile) for tile in tiles]
    if not cells:
        raise ValueError("no picture to put on the sheet")
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), PAPER)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


def undrawn(tiles: Iterable[Tile]) -> int:
    """Count the tiles whose prompt has characters that no font of this machine draws."""
    return sum(bool(font_for(tile.prompt, _FONT_SIZE)[1]) for tile in tiles)


def write(sheet: Image.Image, path: Path) -> None:
    """Write the sheet as a PNG. Raises InvalidInput if the file cannot be written."""
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written ({error.strerror or error}); choose another file") from None


def _note(job: JobView) -> str:
    called = f"  {job.custom_id}" if job.custom_id else ""
    labels = "".join(f"  {name}: {value}" for name, value in (job.labels or {}).items())
    return f"{job.index:06d}  seed {job.spec.seed}{called}{labels}"


def _cell(tile: Tile) -> Image.Image:
    cell = Image.new("RGB", (_CELL, _CELL + (_CAPTION_LINES + 1) * _LINE + 4), PAPER)
    with Image.open(io.BytesIO(tile.picture)) as file:
        picture = fitted(without_alpha(file), _CELL)
    cell.paste(picture, ((_CELL - picture.width) // 2, (_CELL - picture.height) // 2))
    draw = ImageDraw.Draw(cell)
    font, _ = font_for(tile.prompt, _FONT_SIZE)
    # The whole note is for pages, where there is room for it.
    note = "  ".join((*tile.note.split("  ")[:2], *tile.remarks))
    of_note, _ = font_for(note, _FONT_SIZE)
    caption = [*((line, INK, font) for line in wrapped(tile.prompt, font, _CELL, most=_CAPTION_LINES))]
    caption.append((note, MARK if tile.remarks else PALE, of_note))
    for number, (line, colour, drawn_with) in enumerate(caption):
        draw.text((0, _CELL + 4 + number * _LINE), line, fill=colour, font=drawn_with)
    return cell
