"""Tables whose cells are separated by commas, semicolons, tabs or bars, as spreadsheets of every country write them."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from scheduler.intake.files.columns import Row, check_columns, field_of
from scheduler.intake.files.text import MAX_LINE
from scheduler.intake.requests import BadRows
from storage.errors import BadSpecification

#: In the order in which they are tried.
_SEPARATORS = (",", ";", "\t", "|")
#: Excel's own first line, which only names the separator.
_EXCEL = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_LONGEST_HEADER_LINES = 100
#: Characters of a cell in messages.
_SHOWN = 40

Lines = Iterator[tuple[str, str]]


class Dialect(NamedTuple):
    """Hold how a table separates its cells."""

    separator: str
    #: Blanks follow each separator, and belong to no cell.
    spaced: bool = False

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self.separator, skipinitialspace=self.spaced, strict=True)


def rows(lines: Lines, shown: str, bad: BadRows, *, separator: str | None = None) -> Iterator[Row]:
    """Yield the rows of a table, by the columns of its first row; `separator`: of its cells, if that is known.

    Raises BadSpecification for a header that cannot be one, and where a row cannot be told from the next.
    """
    table = _Table(lines, shown, separator)
    try:
        for where, cells in table.body():
            if (wrong := table.misplaced(cells)) is not None:
                bad.met(wrong)
            elif any(cell and not cell.isspace() for cell in cells):
                named, comma = dict(table.named(cells)), table.dialect.separator != ","
                yield Row(where, named, typed=False, of_a_table=True, decimal_comma=comma)
    except csv.Error as error:
        # After an unclosed quote no later row can be recognised.
        raise BadSpecification(f"{table.where()}: not CSV: {error}") from None


class _Table:
    """A header, and the rows below it."""

    def __init__(self, lines: Lines, shown: str, only: str | None = None) -> None:
        self._shown = shown
        self._number = 0
        self._of_this_row = 0
        self._lines = self._counted(lines)
        header, separator = self._header_lines()
        self.dialect = dialect_of("".join(header), only=only or separator)
        self._reader = self.dialect.reader(chain(header, self._lines))
        self._header_at = f"{shown} line {self._number}".lstrip()
        try:
            self._names = [name.strip() for name in next(self._reader, [])]
            self._check()
        except BadSpecification as error:
            raise BadSpecification(f"{self._header_at if header else f'{shown} line 1'}: {error}") from None
        #: Cells that every row must have.
        self._least = max(number for number, name in enumerate(self._names, start=1) if name)

    def where(self) -> str:
        return f"{self._shown} line {self._number}".lstrip()

    def body(self) -> Iterator[tuple[str, list[str]]]:
        for cells in self._reader:
            self._of_this_row = 0
            if cells:
                yield self.where(), cells

    def misplaced(self, cells: Sequence[str]) -> BadSpecification | None:
        """Return what is wrong with the last row: too few cells, or something in a column without a name."""
        filled = [number for number, cell in enumerate(cells) if cell and not cell.isspace()]
        if len(cells) < self._least or (filled and filled[-1] >= len(self._names)):
            wrong = f"{self.where()}: expected {len(self._names)} cells, found {len(cells)}"
            if self.dialect.separator == "," and len(cells) > len(self._names):
                wrong += "; put quotes around a cell that has a comma in it"
            return BadSpecification(wrong)
        nameless = next((cells[number] for number in filled if not self._names[number]), None)
        if nameless is None:
            return None
        shown = repr(nameless if len(nameless) <= _SHOWN else nameless[: _SHOWN - 1] + "…")
        return BadSpecification(f"{self._header_at}: a column has no name, but line {self._number} has {shown} in it")

    def named(self, cells: Sequence[str]) -> Iterator[tuple[str, str]]:
        return ((name, cell) for name, cell in zip(self._names, cells, strict=False) if name)

    def _counted(self, lines: Lines) -> Iterator[str]:
        for _, line in lines:
            self._number += 1
            # Within quotes a row may go on for ever.
            self._of_this_row += len(line)
            if self._of_this_row > MAX_LINE:
                raise BadSpecification(
                    f"{self.where()}: a row longer than {MAX_LINE:,} characters; is a quote left open?"
                )
            yield line

    def _header_lines(self) -> tuple[list[str], str | None]:
        """Return the lines of the first row that has something in it, and the separator that Excel names before it."""
        separator = None
        for line in self._lines:
            self._of_this_row = len(line)
            if self._number == 1 and (named := _EXCEL.fullmatch(line)):
                separator = named[1]
            elif line.strip("".join(_SEPARATORS) + ' "\r\n'):
                header = [line]
                # A name may go on on the next line, within quotes.
                while "".join(header).count('"') % 2 and len(header) < _LONGEST_HEADER_LINES:
                    if (more := next(self._lines, None)) is None:
                        break
                    header.append(more)
                return header, separator
        return [], None

    def _check(self) -> None:
        found = [name for name in self._names if name]
        if not has_prompts(found):
            raise BadSpecification(
                "expected a header with a column named prompt" + (f"; found {', '.join(found)}"[:200] if found else "")
            )
        check_columns(found)


def dialect_of(header: str, *, only: str | None = None) -> Dialect:
    """Return how a table's header separates its cells: as makes the most fields of it, and a prompt among them."""
    tried = [
        (_understood(cells), Dialect(separator))
        for separator in only or _SEPARATORS
        for cells in _cells(header, separator)
    ]
    dialect = max(tried, key=lambda one: one[0])[1] if tried else Dialect(only or ",")
    rest = next(_cells(header, dialect.separator), [""])[1:]
    return dialect._replace(spaced=bool(rest) and all(cell.startswith(" ") for cell in rest))


def has_prompts(names: Iterable[str]) -> bool:
    """Return whether one of these columns says what to draw."""
    return not {field_of(name) for name in names}.isdisjoint({"prompt", "prompt_embeds"})


def _cells(header: str, separator: str) -> Iterator[list[str]]:
    try:
        yield next(csv.reader(header.splitlines(keepends=True), delimiter=separator), [])
    except csv.Error:
        return


def _understood(cells: Sequence[str]) -> tuple[bool, int, int]:
    names = [cell.strip() for cell in cells]
    return has_prompts(names), sum(field_of(name) is not None for name in names), len(names)
