"""`python -m tests.chaos SEED MINUTES`: a farm under random faults, and a verdict. Exit code 1 on violations."""

import dataclasses
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import click

from tests.chaos.figures import Figures
from tests.chaos.plan import DatabaseKind, long_plan, short_plan
from tests.chaos.run import Verdict, run

_PLAIN_LINE_SECONDS = 5.0
_SHOWN_VIOLATIONS = 50


class _Progress:
    """One line that is written anew on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        self._shown_at = float("-inf")

    def __call__(self, line: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        elif time.monotonic() - self._shown_at >= _PLAIN_LINE_SECONDS:
            self._shown_at = time.monotonic()
            click.echo(line, err=True)


@click.command()
@click.argument("seed", type=int)
@click.argument("minutes", type=click.FloatRange(min=0.05))
@click.option("--database", type=click.Choice(get_args(DatabaseKind)), default="postgresql", show_default=True)
@click.option("--jobs", type=int, default=0, help="The least number of jobs to accept; the faults go on until then.")
@click.option("--lease", type=float, default=30, show_default=True, help="FARM_LEASE_SECONDS of the run.")
@click.option("--short", is_flag=True, help="With the short durations and leases of the test suite.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another setting (FARM_…) of the farm.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where logs and results go (default: a new one).")
def main(
    seed: int,
    minutes: float,
    database: DatabaseKind,
    jobs: int,
    lease: float,
    short: bool,
    settings: tuple[str, ...],
    folder: Path | None,
) -> None:
    """Run a farm for MINUTES under faults drawn from SEED, let it come to rest, and check what must be true."""
    folder = folder or Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-{database}-"))
    folder.mkdir(parents=True, exist_ok=True)
    # What the library says to its callers, the driver among them.
    logging.basicConfig(filename=folder / "driver.log", level=logging.WARNING)
    more = dict(setting.split("=", 1) for setting in settings)
    if short:
        plan = short_plan(seed=seed, seconds=60 * minutes, database=database, jobs=jobs)
    else:
        plan = long_plan(seed=seed, seconds=60 * minutes, database=database, jobs=jobs, lease=lease)
    # What was started must be stopped however the run ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    click.echo(f"logs and results: {folder}", err=True)
    verdict = run(dataclasses.replace(plan, settings=more), folder, _Progress())
    click.echo("", err=True)
    report(verdict)
    sys.exit(1 if verdict.violations else 0)


def report(verdict: Verdict) -> None:
    """The figures as a table, then the verdict."""
    for name, value in _lines(verdict.figures):
        click.echo(f"{name:<34} {value}")
    click.echo(f"violations: {len(verdict.violations)}")
    for violation in verdict.violations[:_SHOWN_VIOLATIONS]:
        click.echo(f"  {violation}")
    if len(verdict.violations) > _SHOWN_VIOLATIONS:
        click.echo("  … the others are in results.json")


def _lines(figures: Figures) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = []
    for name, value in figures.fields().items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            lines += [(title, ""), *((f"  {key}", inner) for key, inner in value.items())]
        else:
            lines.append((title, "-" if value is None else value))
    return lines


if __name__ == "__main__":
    main()
