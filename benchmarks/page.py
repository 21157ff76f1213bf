"""Writes the last figures into benchmarks/README.md, with plots: python -m benchmarks.page

For each scenario the newest results that have it count; those of another schema version are named and left out.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import plots, results_file
from benchmarks.scenario import named
from benchmarks.verdicts import verdicts

PAGE = Path(__file__).parent / "README.md"
BEGIN = "<!-- figures: made by python -m benchmarks.page; what is written here is lost -->"
END = "<!-- end of figures -->"

Say = Callable[[str], None]


def rewrite(page: Path = PAGE, folder: Path = results_file.FOLDER, *, say: Say = click.echo) -> None:
    """Make the part of the page between its markers anew, and the plots that it shows."""
    before, after = _around(page.read_text())
    runs = _runs(folder, say)
    newest = {scenario["name"]: (run, scenario) for run in runs for scenario in run["scenarios"]}
    drawn = plots.draw([scenario for _, scenario in newest.values()], folder / "plots", say=say)
    text = section(
        list(newest.values()), {name: [_link(page, file) for file in files] for name, files in drawn.items()}
    )
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    say(f"written: {page}")


def section(found: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], links: Mapping[str, Sequence[str]]) -> str:
    """Return the figures as Markdown, of (run, its scenario) pairs and the plots of each scenario."""
    if not found:
        return "Nothing has been measured yet: `make bench`.\n"
    runs = list({run["started"]: run for run, _ in found}.values())
    lines = [*_runs_told(runs), "", *_targets(found), ""]
    for run, scenario in found:
        lines += [*_scenario(scenario, run if len(runs) > 1 else None), ""]
        lines += [f"![{scenario['title']}]({link})" for link in links.get(scenario["name"], ())]
        lines += [""] if links.get(scenario["name"]) else []
    return "\n".join(lines)


def _around(text: str) -> tuple[str, str]:
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{PAGE} needs the lines {BEGIN} and {END}, once each")
    before, _, rest = text.partition(BEGIN)
    return before, rest.partition(END)[2]


def _runs(folder: Path, say: Say) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            run = results_file.read(file)
        except results_file.UnreadableResults as error:
            say(f"left out: {error}")
            continue
        if not run["quick"]:
            found.append(run)
    return sorted(found, key=lambda run: run["started"])


def _runs_told(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for run in runs:
        on, commit = run["machine"], (run["commit"] or "unknown")[:9] + (" with changes" if run["dirty"] else "")
        lines.append(
            f"* {run['started'][:16].replace('T', ' ')} UTC, commit {commit}: {on['processor']}, {on['cores']} cores, "
            f"{on['memory_gib']} GiB, {on['system']}; load {run['load_at_start'][0]} at the start, "
            f"{run['load_at_end'][0]} at the end. {run['note']}".rstrip()
        )
        lines.append(f"  {', '.join(f'{name} {number}' for name, number in run['versions'].items() if number)}")
    return lines


def _targets(found: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    rows = [verdict for _, scenario in found for verdict in verdicts(scenario)]
    if not rows:
        return []
    lines = ["| # | figure | target | median (min … max) | |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: _in_order(row.number)):
        measured = spread(row.found) if row.found else (row.why or "not measured").replace("|", "\\|")
        verdict = ("met" if row.met else "**missed**") if row.found else ""
        lines.append(f"| {row.number} | {row.what} | {row.wanted} | {measured} | {verdict} |")
    return lines


def _in_order(number: str) -> tuple[int, str]:
    """14b after 14, and that after 5."""
    digits = re.match(r"\d*", number)
    return int(digits[0]) if digits and digits[0] else 0, number


def _scenario(scenario: Mapping[str, Any], run: Mapping[str, Any] | None) -> list[str]:
    of = f" Measured {run['started'][:10]} at {(run['commit'] or 'unknown')[:9]}." if run else ""
    short = f" **Only {scenario['rounds']} rounds of {scenario['rounds_wanted']}: its share of the time was used up.**"
    lines = [
        f"### {scenario['title']}",
        "",
        f"{scenario['measures']} Limit: {scenario['limit']}. `{scenario['name']}`, {scenario['rounds']} rounds.{of}"
        + (short if scenario["rounds"] < scenario["rounds_wanted"] else ""),
        "",
        *_table(scenario),
    ]
    ratios = [f"{_ratio_named(scenario, one)}: {spread(one)}" for one in scenario["ratios"]]
    return lines + (["", "Round by round:", "", *(f"* {one}" for one in ratios)] if ratios else [])


def _table(scenario: Mapping[str, Any]) -> list[str]:
    figures = {
        name: one
        for name, one in scenario["figures"].items()
        if any(name in arm["figures"] for arm in scenario["arms"])
    }
    heads = [f"{one['title']}, {one['unit']} ({one['better']} is better)" for one in figures.values()]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---" * (len(figures) + 1) + "|"]
    for arm in scenario["arms"]:
        if arm["status"] == "measured":
            cells = [spread(arm["figures"][name]) if name in arm["figures"] else "" for name in figures]
            lines.append(f"| {arm['label']} | " + " | ".join(cells) + " |")
    for arm in scenario["arms"]:
        if arm["status"] != "measured":
            lines += ["", f"{arm['label']} {'left out' if arm['status'] == 'missing' else '**failed**'}: {arm['why']}"]
    return lines if figures else lines[2:]


def _ratio_named(scenario: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    title = scenario["figures"][one["figure"]]["title"]
    return f"{title}, {named(one['arm'], one['at'])} ÷ {named(one['over'], one['over_at'])}"


def spread(found: Mapping[str, float]) -> str:
    """Return median (min … max)."""
    return f"{number(found['median'])} ({number(found['min'])} … {number(found['max'])})"


def number(value: float) -> str:
    """Return three significant digits, thousands apart."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"


def _link(page: Path, file: Path) -> str:
    return Path(os.path.relpath(file, page.parent)).as_posix()


if __name__ == "__main__":
    rewrite()
