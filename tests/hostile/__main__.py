"""`python -m tests.hostile MINUTES`: honest users beside strangers. Exit code 1 if a promise did not hold."""

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.hostile.siege import Show, Siege, Terms, lay, quantiles

_LINE_SECONDS = 30.0


@click.command()
@click.argument("minutes", type=click.FloatRange(min=0.05), default=60)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--ratio", type=float, default=3, show_default=True, help="How many times slower honest users may be.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where logs and results go (default: a new one).")
def main(minutes: float, seed: int, ratio: float, folder: Path | None) -> None:
    """Let strangers send for MINUTES what strangers send, and honest users work beside them."""
    folder = folder or Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"logs and results: {folder}", err=True)
    terms = Terms(seconds=60 * minutes, seed=seed, most_ratio=ratio)
    siege = lay(terms, folder, _patiently())
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "load_average": os.getloadavg()}
    (folder / "results.json").write_text(json.dumps({**machine, **siege.fields(terms)}, indent=1) + "\n")
    click.echo(f"{machine['machine']}, load average {os.getloadavg()[0]:.1f} over the last minute")
    click.echo(table(siege))
    broken = siege.broken(terms)
    click.echo(f"promises broken: {len(broken)}")
    for one in broken:
        click.echo(f"  {one}")
    sys.exit(1 if broken else 0)


def _patiently() -> Show:
    """Show a line of progress each half minute, and every new phase."""
    shown: dict[str, float] = {}

    def show(line: str) -> None:
        phase = line.split(",")[0]
        if phase not in shown or time.monotonic() - shown[phase] >= _LINE_SECONDS:
            shown[phase] = time.monotonic()
            click.echo(line, err=True)

    return show


def table(siege: Siege) -> str:
    """The figures for people."""
    lines = [f"{'honest users':22}{'n':>8}{'median':>12}{'p99':>12}{'max':>12}"]
    for what in ("submit", "status", "healthz"):
        for phase, felt in (("undisturbed", siege.undisturbed), ("hostile", siege.hostile)):
            found = quantiles(getattr(felt, what))
            cells = [f"{found[name]:.0f} ms" if found else "-" for name in ("median_ms", "p99_ms", "max_ms")]
            lines.append(f"{what + ' ' + phase:22}{found.get('n', 0):>8}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append("ratios: " + ", ".join(f"{name} {ratio}" for name, ratio in siege.ratios().items()))
    lines.append(f"{'MiB':22}{'start':>8}{'middle':>12}{'end':>12}")
    for name, (start, middle, end) in siege.memory_by_thirds().items():
        lines.append(f"{name:22}{start:>8.0f}{middle:>12.0f}{end:>12.0f}")
    for kind, answers in siege.requests.items():
        lines.append(f"{kind:22} " + ", ".join(f"{how}: {times}" for how, times in answers.items()))
    lines.append(
        f"5xx: {siege.errors_in_all}; let in: {len(siege.let_in)}; renders accepted: {siege.accepted}, "
        f"lost: {len(siege.lost)}, doubled: {len(siege.doubled)}; tracebacks: {len(siege.tracebacks)}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
