"""What commands print: tables and JSON on standard output, progress and remarks on standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from storage.renders.views import RenderView

_PLAIN_LINE_SECONDS = 5.0

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def say(remark: str) -> None:
    """A remark for people; it does not disturb what is piped on."""
    click.echo(remark, err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Left-aligned columns; on a terminal as wide as it is, into a pipe as wide as needed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """`1 job`, `2 jobs`, `3 batches`."""
    return f"{n} {noun}" if n == 1 else f"{n} {plural or noun + 's'}"


def size(n: float) -> str:
    """Bytes for people: `3.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def when(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['rate']:.1f}/s" if task.fields["rate"] else "")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        return Text("" if left is None else f"{duration(left)} left")


class RenderPace:
    """How fast a render goes, measured from the first picture that we saw finished."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def see(self, render: RenderView) -> tuple[float | None, float | None]:
        """Pictures a second, and seconds left; None while unknown."""
        finished = render.total - render.remaining
        if not finished:
            return None, None
        if self._first is None:
            self._first = (self._clock(), finished)
        since, before = self._first
        elapsed = self._clock() - since
        if finished == before or elapsed <= 0:
            return None, None
        rate = (finished - before) / elapsed
        return rate, render.remaining / rate


@contextmanager
def progress_of(label: str, total: int) -> Iterator[Callable[[RenderView], None]]:
    """A progress bar with rate and time left; where no terminal is, a line every few seconds."""
    pace = RenderPace()
    if not sys.stderr.isatty():
        yield _plain_progress(label, pace)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Left(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total, rate=None, left=None)

        def show(render: RenderView) -> None:
            rate, left = pace.see(render)
            bar.update(task, completed=render.total - render.remaining, rate=rate, left=left)

        yield show


@contextmanager
def amount_of(label: str, total: int, noun: str) -> Iterator[Callable[[int], None]]:
    """A progress bar for so many of something, with rate and time left; where no terminal is, a line now and then."""
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Left(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(label, total=total, rate=None, left=None)
        next_at = started + _PLAIN_LINE_SECONDS

        def show(done: int) -> None:
            nonlocal next_at
            rate = done / max(time.monotonic() - started, 0.001)
            left = (total - done) / rate if rate else None
            bar.update(task, completed=done, rate=rate, left=left)
            if bar.disable and time.monotonic() > next_at:
                say(f"{label}: {done:,} of {total:,} {noun}, {rate:,.0f}/s")
                next_at = time.monotonic() + _PLAIN_LINE_SECONDS

        yield show


@contextmanager
def counting(label: str) -> Iterator[Callable[[Iterable[T]], Iterator[T]]]:
    """Counts what flows through, with rate, where nobody knows yet how much it will be."""
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(label, total=None)

        def through(stream: Iterable[T]) -> Iterator[T]:
            next_at = started + _PLAIN_LINE_SECONDS
            for n, one in enumerate(stream, start=1):
                if n % 1000 == 0:
                    so_far = f"{label}: {n:,} ({n / (time.monotonic() - started):,.0f}/s)"
                    bar.update(task, description=so_far)
                    if bar.disable and time.monotonic() > next_at:
                        say(so_far)
                        next_at = time.monotonic() + _PLAIN_LINE_SECONDS
                yield one

        yield through


def _plain_progress(label: str, pace: RenderPace) -> Callable[[RenderView], None]:
    next_at = 0.0
    said: RenderView | None = None

    def show(render: RenderView) -> None:
        nonlocal next_at, said
        rate, left = pace.see(render)
        if render == said or (time.monotonic() < next_at and not render.finished):
            return
        said = render
        next_at = time.monotonic() + _PLAIN_LINE_SECONDS
        speed = f", {rate:.1f}/s" if rate else ""
        rest = f", {duration(left)} left" if left else ""
        say(f"{label}: {render.total - render.remaining} of {render.total}{speed}{rest}")

    return show
