"""Says what changed between two runs beyond the noise: python -m benchmarks.compare A B

A and B are results files, or commits that have some in benchmarks/results/. A figure has changed if all of its rounds
in B lie on one side of all of its rounds in A. Ratios of two arms are formed within each round, and so hardly depend on
what else the machines did: between two machines only they say something about the farm. Exit code 2: a file cannot
be read, or is of another schema version.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click

from benchmarks import page, results_file
from benchmarks.scenario import named

#: With fewer in each run, all of one run lie beyond all of the other by chance too often.
_LEAST = 4


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure or ratio that both runs have."""

    what: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    verdict: Literal["better", "worse", "within the noise", "too few rounds"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", metavar="A", help="a results file, or a commit")
    parser.add_argument("after", metavar="B")
    parser.add_argument("--all", action="store_true", help="what has not changed, too")
    options = parser.parse_args(arguments)
    try:
        before, after = (results_file.read(results_file.find(name)) for name in (options.before, options.after))
    except results_file.UnreadableResults as error:
        click.echo(str(error), err=True)
        return 2
    for remark in remarks(before, after):
        click.echo(remark)
    found = list(changes(before, after))
    for one in found:
        if options.all or one.verdict in ("better", "worse"):
            click.echo(f"{one.verdict:16} {one.what}: {page.spread(one.before)} → {page.spread(one.after)}")
    counted = {verdict: sum(one.verdict == verdict for one in found) for verdict in ("better", "worse")}
    click.echo(f"{len(found)} figures in both: {counted['better']} better, {counted['worse']} worse beyond the noise")
    return 0


def remarks(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Say in what the two runs differ, besides their commits, that figures depend on."""
    for name in dict.fromkeys([*before["machine"], *after["machine"]]):
        one, other = before["machine"].get(name), after["machine"].get(name)
        if one != other:
            yield f"another machine: {name} {one} → {other}; only ratios can be compared"
    for name in dict.fromkeys([*before["versions"], *after["versions"]]):
        one, other = before["versions"].get(name), after["versions"].get(name)
        if one != other:
            yield f"another version: {name} {one or 'not installed'} → {other or 'not installed'}"
    for run, which in ((before, "A"), (after, "B")):
        if run["quick"]:
            yield f"{which} is a smoke test (--quick): its figures mean nothing"
        if run["dirty"]:
            yield f"{which} was measured with changes that are not in its commit {(run['commit'] or 'unknown')[:9]}"
        if run["load_at_start"][0] > run["machine"]["cores"] / 2:
            yield f"{which} was measured on a busy machine (load {run['load_at_start'][0]} when it began)"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Return each figure of each arm and each ratio that both runs have, ratios first, with what became of it."""
    earlier = {scenario["name"]: scenario for scenario in before["scenarios"]}
    pairs = [(earlier[one["name"]], one) for one in after["scenarios"] if one["name"] in earlier]
    for old, new in pairs:
        ratios = {_key(one): one for one in old["ratios"]}
        for one in new["ratios"]:
            if _key(one) in ratios and one["figure"] in old["figures"]:
                over = f"{named(one['arm'], one['at'])} ÷ {named(one['over'], one['over_at'])}"
                what = f"{new['name']}: {one['figure']}, {over}"
                yield _change(what, ratios[_key(one)], one, (old, new), one["figure"])
    for old, new in pairs:
        arms = {arm["label"]: arm for arm in old["arms"]}
        for arm in new["arms"]:
            for figure, spread in arm["figures"].items():
                known = arms.get(arm["label"], {"figures": {}})["figures"].get(figure)
                if known:
                    yield _change(f"{new['name']}: {figure}, {arm['label']}", known, spread, (old, new), figure)


def _key(ratio: Mapping[str, Any]) -> tuple[str, str, str]:
    return ratio["figure"], named(ratio["arm"], ratio["at"]), named(ratio["over"], ratio["over_at"])


def _change(
    what: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    scenarios: tuple[Mapping[str, Any], Mapping[str, Any]],
    figure: str,
) -> Change:
    verdict: Literal["better", "worse", "within the noise", "too few rounds"] = "within the noise"
    risen, fallen = after["min"] > before["max"], after["max"] < before["min"]
    if min(one["rounds"] for one in scenarios) < _LEAST:
        verdict = "too few rounds"
    elif risen or fallen:
        verdict = "better" if risen == (scenarios[1]["figures"][figure]["better"] == "higher") else "worse"
    return Change(what=what, before=before, after=after, verdict=verdict)


if __name__ == "__main__":
    sys.exit(main())
