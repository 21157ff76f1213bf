"""Memory of each of the farm's processes while many simulated jobs go through, as a plot and as JSON.

python -m benchmarks.memory --jobs 100000 --out memory

Writes memory.png and memory.json. SQLite, a folder of objects, a Redis-compatible server, a scheduler process, two
workers. Flat means: from the first quarter of the jobs to the last, no process grows by more than a few percent.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.simulated_farm import process_name, simulated_farm
from tests.integration.farm import Farm
from tests.servers import redis_server

_EVERY_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("memory"), help="Name of the files, without their ending.")
    options = parser.parse_args()
    with _farm() as farm:
        seconds, samples = _sampled(farm, options.jobs)
    result = {"jobs": options.jobs, "seconds": round(seconds, 1), "processes": _grown(samples)}
    click.echo(f"{options.jobs} jobs in {seconds:.0f} s, {options.jobs / seconds:.0f}/s")
    for name, figures in result["processes"].items():
        click.echo(f"  {name:32} {figures['first_mib']:7.1f} → {figures['last_mib']:7.1f} MiB")
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    _plot(samples, options.out.with_suffix(".png"))


@contextmanager
def _farm() -> Iterator[Farm]:
    with (
        tempfile.TemporaryDirectory() as name,
        redis_server(Path(name)) as broker,
        simulated_farm(Path(name), f"sqlite:///{name}/farm.db", broker) as farm,
    ):
        yield farm


def _sampled(farm: Farm, n: int) -> tuple[float, dict[str, list[tuple[float, float]]]]:
    """Seconds that the jobs took, and (jobs done, MiB) by process."""
    parts = [farm.scheduler(), farm.workers(2)]
    watched = [p for part in parts for p in (psutil.Process(part.pid), *psutil.Process(part.pid).children(True))]
    names = {process.pid: process_name(process) for process in watched}
    started = time.monotonic()
    render_id = farm.submit(n)
    samples: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    while not (render := farm.render(render_id)).finished:
        for process in watched:
            samples[names[process.pid]].append((render.done, process.memory_info().rss / 2**20))
        time.sleep(_EVERY_SECONDS)
    if render.done != n:
        raise AssertionError(f"{render.failed} of {n} jobs failed")
    return time.monotonic() - started, samples


def _grown(samples: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Median memory in the second eighth of the jobs (caches are filled by then) and in the last."""
    result = {}
    for name, points in samples.items():
        eighth = max(1, len(points) // 8)
        first, last = points[eighth : 2 * eighth] or points, points[-eighth:]
        result[name] = {
            "first_mib": round(statistics.median(mib for _, mib in first), 1),
            "last_mib": round(statistics.median(mib for _, mib in last), 1),
        }
    return result


def _plot(samples: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """Needs matplotlib (the extra `bench`)."""
    from matplotlib.figure import Figure  # only those who plot have it

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in samples.items():
        axes.plot([done for done, _ in points], [mib for _, mib in points], label=name)
    axes.set_xlabel("jobs done")
    axes.set_ylabel("resident memory (MiB)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
