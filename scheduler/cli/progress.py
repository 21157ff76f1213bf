"""Progress on standard error: bars on a terminal, otherwise a line every few seconds."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from scheduler.cli.output import duration, hint, is_quiet, rate
from storage.renders.views import RenderView

_PLAIN_LINE_SECONDS = 5.0
_NUMBER = re.compile(r"\d[\d,.]*")

T = TypeVar("T")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(rate(task.fields["rate"]) if task.fields["rate"] else "")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        return Text("" if left is None else f"{duration(left)} left")


class RenderPace:
    """The speed of a render, measured from the first picture that we saw finished."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def see(self, render: RenderView) -> tuple[float | None, float | None]:
        """Return pictures per second and seconds left; None while unknown."""
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
def progress_of(label: str, total: int) -> Iterator[Callable[[RenderView, str], None]]:
    """Show a progress bar with rate, time left and a note; without a terminal, a line every few seconds.

    What it yields takes the render, and in a few words what it waits for; empty: for nothing.
    """
    pace = RenderPace()
    if is_quiet() or not sys.stderr.isatty():
        yield _plain_progress(label, pace)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Left(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total, rate=None, left=None, note="")

        def show(render: RenderView, note: str) -> None:
            per_second, left = pace.see(render)
            bar.update(task, completed=render.total - render.remaining, rate=per_second, left=left, note=escape(note))

        yield show


@contextmanager
def amount_of(label: str, total: int, noun: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for a known amount, with rate and time left; without a terminal, a line now and then."""
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Left(),
        console=Console(stderr=True),
        transient=True,
        disable=is_quiet() or not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(label, total=total, rate=None, left=None)
        next_at = started + _PLAIN_LINE_SECONDS

        def show(done: int) -> None:
            nonlocal next_at
            pace = done / max(time.monotonic() - started, 0.001)
            left = (total - done) / pace if pace else None
            bar.update(task, completed=done, rate=pace, left=left)
            if bar.disable and time.monotonic() > next_at:
                hint(f"{label}: {done:,} of {total:,} {noun}, {rate(pace)}")
                next_at = time.monotonic() + _PLAIN_LINE_SECONDS

        yield show


@contextmanager
def counting(label: str) -> Iterator[Callable[[Iterable[T]], Iterator[T]]]:
    """Count what flows through, with its rate, while the total is still unknown."""
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=is_quiet() or not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(label, total=None)

        def through(stream: Iterable[T]) -> Iterator[T]:
            next_at = started + _PLAIN_LINE_SECONDS
            for n, one in enumerate(stream, start=1):
                if n % 1000 == 0:
                    so_far = f"{label}: {n:,} ({rate(n / (time.monotonic() - started))})"
                    bar.update(task, description=so_far)
                    if bar.disable and time.monotonic() > next_at:
                        hint(so_far)
                        next_at = time.monotonic() + _PLAIN_LINE_SECONDS
                yield one

        yield through


def _plain_progress(label: str, pace: RenderPace) -> Callable[[RenderView, str], None]:
    next_at = 0.0
    said: tuple[RenderView, str] | None = None

    def show(render: RenderView, note: str) -> None:
        nonlocal next_at, said
        per_second, left = pace.see(render)
        # A note whose numbers alone have changed is no news.
        news = (render, _NUMBER.sub("#", note))
        if news == said or (time.monotonic() < next_at and not render.finished):
            return
        said = news
        next_at = time.monotonic() + _PLAIN_LINE_SECONDS
        speed = f", {rate(per_second)}" if per_second else ""
        rest = f", {duration(left)} left" if left else ""
        hint(f"{label}: {render.total - render.remaining} of {render.total}{speed}{rest}{f'; {note}' if note else ''}")

    return show
