"""What commands print: tables and JSON on standard output, remarks on standard error."""

import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

_GAP = "  "

#: Of a command's context: whether hints and progress are left out.
_QUIET = "scheduler.cli.quiet"

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Give a command `--json`, and `--quiet`, which silences `hint` and progress."""
    command = click.option("--json", "as_json", is_flag=True, help="Print a single JSON value.")(command)
    return click.option(
        *("-q", "--quiet"),
        is_flag=True,
        expose_value=False,
        callback=_be_quiet,
        help="Print no progress and no hints, only results and what went wrong.",
    )(command)


def _be_quiet(context: click.Context, _parameter: click.Parameter, quiet: bool) -> None:
    # Those of groups have it as well, and come first.
    context.meta[_QUIET] = quiet or context.meta.get(_QUIET, False)


def has_subcommand(context: click.Context, *, as_json: bool) -> bool:
    """Tell whether a subcommand of a group runs. Raises UsageError for `--json` before it: it would do nothing."""
    name = context.invoked_subcommand
    if name is not None and as_json:
        raise click.UsageError(f"--json: write it behind {name}")
    return name is not None


def is_quiet() -> bool:
    """Return whether the command that runs is to print neither hints nor progress."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def say(remark: str) -> None:
    """Print a remark to standard error, where it does not disturb a pipe."""
    click.echo(remark, err=True)


def hint(words: str) -> None:
    """Say what one could do without; nothing with `--quiet`."""
    if not is_quiet():
        say(words)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print left-aligned columns, a row a line; on a terminal that is too narrow, cells are folded."""
    cells = [["" if cell is None else " ".join(str(cell).splitlines()) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    if sys.stdout.isatty() and sum(widths) + len(_GAP) * (len(widths) - 1) > shutil.get_terminal_size().columns:
        _print_folded(columns, cells)
        return
    click.secho(_line(columns, widths), bold=True)
    for row in cells:
        click.echo(_line(row, widths))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _width(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese and Japanese characters take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _print_folded(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # Only here, because it takes as long to import as all that a status needs of click.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 job`, `2 jobs`, `3 batches`."""
    return f"{n} {noun}" if n == 1 else f"{n} {plural or noun + 's'}"


def size(n: float) -> str:
    """Return bytes as people read them: `3.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def when(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, its in ((86_400, "day", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            n, rest = divmod(whole, unit)
            first = counted(n, name) if name == "day" else f"{n} {name}"
            return f"{first} {rest // below} {its}" if rest // below else first
    raise AssertionError("unreachable: a minute is the smallest of them")


def rate(per_second: float) -> str:
    """Return how many a second, or a minute where that is less than one in ten seconds."""
    if per_second < 0.1:
        return f"{per_second * 60:.1f}/min"
    return f"{per_second:.1f}/s" if per_second < 100 else f"{per_second:,.0f}/s"
