"""Measures the farm beside what people would use instead: `make bench`.

python -m benchmarks                        every scenario of the CPU tier, in ten minutes
python -m benchmarks --only submit claims   some of them
python -m benchmarks --list                 what there is

The arms of a scenario run in turns, round by round, so that a machine that is busy for a while is busy for all. Results
go to benchmarks/results/, and the page benchmarks/README.md is made anew. Exit code 0: all was measured, but for arms
whose packages are missing; 1: an arm failed; 2: wrong arguments.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks import page, results_file
from benchmarks.interleave import run_scenario
from benchmarks.machine import commit, is_dirty, load, machine, versions
from benchmarks.registry import all_scenarios
from benchmarks.scenario import Scenario

_QUICK_ROUNDS = 2
_LEAST_OF_A_SHARE = 0.5
_QUICK_MINUTES = 2.0


def main(arguments: Sequence[str] | None = None, scenarios: Mapping[str, Scenario] | None = None) -> int:
    """Measure what the arguments choose of these scenarios (all), and return the exit code."""
    options = _parser().parse_args(arguments)
    scenarios = all_scenarios(say=click.echo) if scenarios is None else scenarios
    if options.list:
        for scenario in scenarios.values():
            click.echo(f"{scenario.name:16} {scenario.title}{' (only if named)' if scenario.tier == 'long' else ''}")
        return 0
    if unknown := [name for name in options.only if name not in scenarios]:
        click.echo(f"no scenario named {', '.join(unknown)}; there are: {', '.join(scenarios)}", err=True)
        return 2
    chosen = [one for one in scenarios.values() if (one.name in options.only if options.only else one.tier == "cpu")]
    try:
        results = _measured(chosen, options)
    except KeyboardInterrupt:
        click.echo("stopped; nothing was written", err=True)
        return 130
    failed = [
        f"{scenario['name']}: {arm['label']}: {arm['why']}"
        for scenario in results["scenarios"]
        for arm in scenario["arms"]
        if arm["status"] == "failed"
    ]
    failed += [f"{one['name']}, at its end: {one['closing']}" for one in results["scenarios"] if one["closing"]]
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    elif not options.quick:
        click.echo(f"written: {results_file.write(results)}")
        page.rewrite(say=click.echo)
    for line in failed:
        click.echo(f"failed: {line}", err=True)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenarios")
    parser.add_argument("--list", action="store_true", help="name the scenarios, and end")
    parser.add_argument("--rounds", type=_positive, help="instead of each scenario's own number (7 or more)")
    parser.add_argument("--quick", action="store_true", help="sizes for a smoke test; nothing is kept but --out")
    parser.add_argument(
        "--budget", type=_minutes, default=10.0, metavar="MINUTES", help="for all (default: %(default)s)"
    )
    parser.add_argument(
        "--against", type=_checkout, metavar="CHECKOUT", help="another build of the farm, beside this one"
    )
    parser.add_argument("--note", default="", help="a remark that is kept with the results")
    parser.add_argument("--out", type=_file, metavar="FILE", help="write there, and leave the page as it is")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0
    if not 0 < minutes < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is no number of minutes")
    return minutes


def _file(text: str) -> Path:
    # Before ten minutes of measuring, not after them.
    if not (path := Path(text)).parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no file that could be written")
    return path


def _checkout(text: str) -> Path:
    if not (path := Path(text).resolve()).joinpath("scheduler").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of the farm")
    return path


def _measured(chosen: Sequence[Scenario], options: argparse.Namespace) -> dict[str, Any]:
    started, begun = datetime.now(UTC), time.monotonic()
    seconds = 60 * (min(options.budget, _QUICK_MINUTES) if options.quick else options.budget)
    results: dict[str, Any] = {
        "schema": results_file.SCHEMA,
        "started": started.isoformat(timespec="seconds"),
        "commit": commit(),
        "dirty": is_dirty(),
        "quick": options.quick,
        "note": options.note,
        "versions": versions(),
        "machine": machine(),
        "load_at_start": load(),
        "scenarios": [],
    }
    whole = left = sum(one.share for one in chosen)
    for number, scenario in enumerate(chosen, 1):
        rest = begun + seconds - time.monotonic()
        mine = time_for(scenario.share, fair=seconds * scenario.share / whole, left=left, rest=rest)
        left -= scenario.share
        click.echo(f"[{number}/{len(chosen)}] {scenario.name}: {scenario.title} (up to {mine:.0f} s)")
        rounds = options.rounds or (_QUICK_ROUNDS if options.quick else None)
        results["scenarios"].append(
            run_scenario(
                scenario,
                seconds=mine,
                rounds=rounds,
                quick=options.quick,
                against=options.against,
                say=click.echo,
            )
        )
    return results | {"seconds": round(time.monotonic() - begun, 1), "load_at_end": load()}


def time_for(share: float, *, fair: float, left: float, rest: float) -> float:
    """Return the seconds for a scenario: its share of the `rest`, by the shares that are `left`, its own among them.

    What one did not use, the next ones may. Of what others overran, none has to give more than half of its `fair` part.
    """
    return max(fair * _LEAST_OF_A_SHARE, rest * share / left)


if __name__ == "__main__":
    # Servers are stopped also when somebody ends this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM; nothing was written"))
    sys.exit(main())
