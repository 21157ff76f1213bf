"""Claims and completions a second on PostgreSQL, for sizes of one's own, with the plans of a claim's statements.

python -m benchmarks.claims --jobs 1000 100000 1000000 --processes 8 --threads 1 --batch 8 --out claims.json

The long form of the scenario `claims`, on the same processes and queues.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import click
from sqlalchemy import event

from benchmarks.claimants import MODEL, Load, claim_and_complete, pool
from benchmarks.machine import load, machine
from benchmarks.queues import copy_of, farm_template
from benchmarks.servers import Servers
from storage.database.connection import Database
from storage.jobs.jobs import Jobs

#: Beside those that wait: as many as could be taken.
_PER_SECOND = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="in each process, each with a connection of its own")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started = {"machine": machine(), "load_at_start": load()}
    results = [_measured(n, options) for n in options.jobs]
    if options.out:
        options.out.write_text(json.dumps({**started, "results": results}, indent=1) + "\n")


def _measured(waiting: int, options: argparse.Namespace) -> dict[str, Any]:
    taken = min(waiting, int(options.seconds * _PER_SECOND))
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        template, server = farm_template(servers, waiting + taken), servers.postgresql()
        click.echo(
            f"\n{waiting} jobs wait, {options.processes} processes of {options.threads} claim {options.batch} at a time"
        )
        with copy_of(server, template) as url:
            plan = _plan(url, options.batch)
        click.echo("\n".join(f"    {line}" for line in plan))
        with copy_of(server, template) as url, pool(options.processes) as processes:
            work = Load(url=url, jobs=taken, seconds=options.seconds, batch=options.batch, threads=options.threads)
            figures = {key: round(value, 2) for key, value in processes.run(claim_and_complete, work).items()}
    click.echo("    " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    return {"waiting": waiting, "processes": options.processes, "threads": options.threads, **figures, "plan": plan}


def _plan(url: str, batch: int) -> list[str]:
    """How PostgreSQL carries out what a claim says about jobs."""
    database = Database(url)
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    Jobs(database).claim(model=MODEL, worker="w", limit=batch)
    event.remove(database.engine, "before_cursor_execute", note)
    with database.engine.connect() as connection:
        lines = [
            row[0]
            for statement, parameters in seen
            if "FROM jobs" in statement or "UPDATE jobs" in statement
            for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        ]
        connection.rollback()
    database.close()
    return lines


if __name__ == "__main__":
    main()
