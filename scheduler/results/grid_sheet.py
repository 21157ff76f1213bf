"""Draw a grid of pictures whose columns, rows and blocks are labelled by the fields that differ."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt

from PIL import Image, ImageDraw

from scheduler.results.drawing import INK, MARK, PALE, PAPER, fitted, wrapped
from scheduler.results.fonts import font_for
from scheduler.results.grid_axes import Axis, Grid
from scheduler.results.thumbnails import picture_of
from storage.errors import InvalidInput, NotFound
from storage.objects.pixels import without_alpha
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, RenderView
from storage.rules.states import State

#: Three times the width of the shipped model's pictures.
SIDE = 192
LEAST_SIDE, MOST_SIDE = 48, 512
#: Pictures of one cell that are shown; a note counts the others.
_MOST_IN_CELL = 16
#: Of the whole sheet: 300 MB while it is drawn.
_MOST_PIXELS = 100_000_000
_GAP = 12
_FONT_SIZE, _LINE = 13, 16
_SMALL, _SMALL_LINE = 11, 13
#: Beside rows.
_LABEL_WIDTH = 150
_LABEL_LINES, _VALUE_LINES = 4, 3
_LEAST_WIDTH = 480
_FIELD = (238, 238, 234)


@dataclass(frozen=True, kw_only=True)
class GridSheet:
    """A grid as it is drawn."""

    grid: Grid
    objects: ObjectStore
    #: What is written above.
    title: str
    #: Pixels of a picture's longest side.
    side: int = SIDE

    def draw(self, show: Callable[[int], None] = lambda _: None) -> Image.Image:
        """Draw it, telling how many pictures were drawn so far; whatever `show` raises ends it.

        Raises InvalidInput for a sheet that would be too large, ObjectStoreProblem.
        """
        width, height = self.size
        if width * height > _MOST_PIXELS:
            raise InvalidInput(
                f"the grid would be {width}×{height} pixels, at most {_MOST_PIXELS // 10**6} million are drawn; "
                f"make its pictures smaller than {self.side} pixels, or name axes with fewer values"
            )
        sheet = Image.new("RGB", (width, height), PAPER)
        drawer = _Drawer(self, ImageDraw.Draw(sheet), sheet)
        heading = [(line, INK) for line in self._titles()] + [(note, PALE) for note in self.notes()]
        drawer.lines((_GAP, _GAP), heading, width - 2 * _GAP)
        for block in range(len(self.grid.z.values)):
            drawer.block(block, self._heading() + block * self._block_height, show)
        return sheet

    def _titles(self) -> list[str]:
        prompt = self.grid.shared.get("prompt")
        return [self.title] if prompt is None else [self.title, prompt]

    def notes(self) -> list[str]:
        """Return what is to be known of the grid, a line each."""
        grid = self.grid
        # A sheet of one column or row has one axis.
        named = (("columns", grid.x), ("rows", grid.y), ("blocks", grid.z))
        axes = "; ".join(f"{what}: {axis.title}" for what, axis in named if axis.field)
        said = [axes + ("; the seeds differ from cell to cell" if grid.seeds_differ else "")]
        if grid.most_in_cell > 1:
            by = ", ".join(grid.within) or "nothing: they are the same"
            said.append(f"up to {grid.most_in_cell} pictures in a cell, told apart by {by}")
        return said

    # -- measures --------------------------------------------------------------------------------------------------

    @property
    def in_row(self) -> int:
        """How many pictures stand side by side in a cell."""
        return ceil(sqrt(min(self.grid.most_in_cell, _MOST_IN_CELL)))

    @property
    def tile(self) -> tuple[int, int]:
        """Size of a picture with what is written below it."""
        # Where several stand in a cell, with something between them.
        return (self.side + 4, self.side + _SMALL_LINE + 4) if self.grid.most_in_cell > 1 else (self.side, self.side)

    @property
    def cell(self) -> tuple[int, int]:
        """Size of a cell."""
        n = min(self.grid.most_in_cell, _MOST_IN_CELL)
        more = _SMALL_LINE if self.grid.most_in_cell > _MOST_IN_CELL else 0
        return self.in_row * self.tile[0], ceil(n / self.in_row) * self.tile[1] + more

    @property
    def left(self) -> int:
        """Where the columns begin."""
        return _GAP + (_LABEL_WIDTH + _GAP if self.grid.y.field else 0)

    def _heading(self) -> int:
        return _GAP + _LINE * (len(self._titles()) + len(self.notes())) + _GAP

    @cached_property
    def columns(self) -> Sequence[Sequence[str]]:
        """What is written above each column, in lines."""
        axis = self.grid.x
        return [_wrapped(_labelled(axis, x), self.cell[0], _VALUE_LINES) for x in range(len(axis.values))]

    @cached_property
    def above(self) -> int:
        """How much of a block is above its cells."""
        lines = max(map(len, self.columns)) if self.grid.x.field else 0
        return (_LINE + 8 if self.grid.z.field else 0) + (lines * _LINE + 4 if lines else 0)

    @property
    def _block_height(self) -> int:
        return self.above + len(self.grid.y.values) * (self.cell[1] + _GAP)

    @property
    def size(self) -> tuple[int, int]:
        """Of the whole sheet."""
        width = self.left + len(self.grid.x.values) * (self.cell[0] + _GAP)
        return max(width, _LEAST_WIDTH), self._heading() + len(self.grid.z.values) * self._block_height


def title_of(render: RenderView) -> str:
    """Return what is written above the grid of a render."""
    return f"render {render.id}" + ("" if render.name is None else f", {render.name}")


class _Drawer:
    """Draws one sheet."""

    def __init__(self, sheet: GridSheet, draw: ImageDraw.ImageDraw, image: Image.Image) -> None:
        self._sheet = sheet
        self._draw = draw
        self._image = image
        self._drawn = 0

    def block(self, z: int, top: int, show: Callable[[int], None]) -> None:
        """Draw the cells of one value of the third axis."""
        sheet, grid = self._sheet, self._sheet.grid
        if grid.z.field:
            self._draw.rectangle((_GAP, top, self._image.width - _GAP, top + _LINE + 1), fill=_FIELD)
            self.lines((_GAP + 4, top), [(_labelled(grid.z, z), INK)], self._image.width - 2 * _GAP)
        cells = top + sheet.above
        for x, said in enumerate(sheet.columns if grid.x.field else ()):
            at = sheet.left + x * (sheet.cell[0] + _GAP)
            self.lines((at, cells - 4 - len(said) * _LINE), [(line, INK) for line in said], sheet.cell[0])
        for y in range(len(grid.y.values)):
            row = cells + y * (sheet.cell[1] + _GAP)
            if grid.y.field:
                most = max(1, min(_LABEL_LINES * 3, sheet.cell[1] // _LINE))
                said = _wrapped(_labelled(grid.y, y), _LABEL_WIDTH, most)
                self.lines((_GAP, row), [(line, INK) for line in said], _LABEL_WIDTH)
            for x in range(len(grid.x.values)):
                jobs = grid.cells.get((x, y, z), ())
                self._cell(jobs, (sheet.left + x * (sheet.cell[0] + _GAP), row))
                self._drawn += len(jobs)
                show(self._drawn)

    def lines(self, at: tuple[int, int], said: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> None:
        """Write lines, each cut to the width."""
        for number, (line, colour) in enumerate(said):
            font, _ = font_for(line, _FONT_SIZE)
            [cut] = wrapped(line, font, width, most=1) or [""]
            self._draw.text((at[0], at[1] + number * _LINE), cut, fill=colour, font=font)

    def _cell(self, jobs: Sequence[JobView], at: tuple[int, int]) -> None:
        sheet = self._sheet
        if not jobs:
            self._box(at, sheet.cell, ["not in the render"], PALE)
        for number, job in enumerate(jobs[:_MOST_IN_CELL]):
            row, column = divmod(number, sheet.in_row)
            place = (at[0] + column * sheet.tile[0], at[1] + row * sheet.tile[1])
            self._picture(job, place)
            if sheet.grid.most_in_cell > 1:
                self._small(sheet.grid.told_apart(job), (place[0], place[1] + sheet.side + 1), sheet.side - 4)
        if len(jobs) > _MOST_IN_CELL:
            words = f"and {len(jobs) - _MOST_IN_CELL} more"
            self._small(words, (at[0], at[1] + sheet.cell[1] - _SMALL_LINE), sheet.cell[0])

    def _picture(self, job: JobView, at: tuple[int, int]) -> None:
        side = self._sheet.side
        if job.state is not State.DONE:
            said = [job.state.value, *([job.error] if job.state is State.FAILED and job.error else [])]
            self._box(at, (side, side), said, MARK if job.state is State.FAILED else PALE)
            return
        try:
            data = picture_of(self._sheet.objects, job)
        except NotFound as error:
            self._box(at, (side, side), [str(error).partition(": ")[2]], MARK)
            return
        with Image.open(io.BytesIO(data)) as file:
            picture = fitted(without_alpha(file), side)
        self._image.paste(picture, (at[0] + (side - picture.width) // 2, at[1] + (side - picture.height) // 2))

    def _box(
        self, at: tuple[int, int], size: tuple[int, int], said: Sequence[str], colour: tuple[int, int, int]
    ) -> None:
        """Draw what stands in place of a picture."""
        left, top, right, bottom = at[0], at[1], at[0] + size[0] - 1, at[1] + size[1] - 1
        self._draw.rectangle((left, top, right, bottom), fill=_FIELD, outline=colour)
        most = max(1, (size[1] - 8) // _SMALL_LINE)
        written: list[str] = []
        for line in said:
            font, _ = font_for(line, _SMALL)
            written += wrapped(line, font, size[0] - 12, most=max(1, most - len(written)))
        for number, line in enumerate(written[:most]):
            font, _ = font_for(line, _SMALL)
            self._draw.text((left + 6, top + 4 + number * _SMALL_LINE), line, fill=colour, font=font)

    def _small(self, text: str, at: tuple[int, int], width: int) -> None:
        font, _ = font_for(text, _SMALL)
        [cut] = wrapped(text, font, width, most=1) or [""]
        self._draw.text(at, cut, fill=PALE, font=font)


def _labelled(axis: Axis, number: int) -> str:
    """Return what is written at a value: short ones after the name of their field."""
    value = axis.values[number]
    name = axis.title.partition(", ")[0]
    return value if axis.field in ("prompt", "negative_prompt") else f"{name} {value}"


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """Return a label in lines; values that stand together are a line each, at least."""
    found: list[str] = []
    for line in text.split("\n"):
        font, _ = font_for(line, _FONT_SIZE)
        found += wrapped(line, font, width, most=max(1, most - len(found)))
    return found[:most]
