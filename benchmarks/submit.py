"""A manifest of a million rows, submitted by the command: seconds, memory, database, messages, and `farm status` after.

python -m benchmarks.submit --rows 100000 1000000 --database sqlite postgresql --out submit.json

Each row has a prompt, a name and a column of the caller's own. Servers of its own are started; nothing renders. Beside
it, in the same run, what people write instead: a loop of Celery's `.delay`, over 20,000 rows.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import redis
from sqlalchemy import text

from benchmarks.command import Command, run_command
from storage.database.connection import Database
from storage.database.schema import upgrade
from tests.servers import postgres_server, redis_server

_DELAYED = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--database", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from benchmarks.scenarios.submission import delay_all  # which measures with what is below

        with redis_server(folder) as broker:
            delayed = _DELAYED / delay_all(broker, _DELAYED)
        click.echo(f"a loop of .delay: {delayed:.0f} jobs/s")
        for database in options.database:
            for rows in options.rows:
                results.append(_measured(folder, database, rows) | {"delayed_per_second": round(delayed)})
                click.echo(json.dumps(results[-1]))
    if options.out:
        machine = {"machine": platform.machine(), "cores": multiprocessing.cpu_count()}
        options.out.write_text(json.dumps({**machine, "results": results}, indent=1) + "\n")


def _measured(folder: Path, kind: str, rows: int) -> dict[str, Any]:
    manifest = folder / "prompts.jsonl"
    write_manifest(manifest, rows)
    with _stores(folder, kind) as (url, broker):
        found = submitted(folder, url, broker, manifest)
        environment = _environment(folder, url, broker)
        status = min(_farm(environment, "status", found.printed.strip()).seconds for _ in range(5))
        nothing = min(_farm(environment, "--version").seconds for _ in range(5))
        client = redis.Redis.from_url(broker)
        return {
            "database": kind,
            "rows": rows,
            "seconds": round(found.seconds, 1),
            "rows_per_second": round(rows / found.seconds),
            "peak_mib": round(found.mib),
            "database_mb": round(_size(url) / 1e6),
            "messages": sum(client.llen(key) for key in client.scan_iter("farm:model.*")),
            "status_seconds": round(status, 2),
            "starting_a_command_seconds": round(nothing, 2),
        }


def write_manifest(file: Path, rows: int) -> None:
    """Write a manifest of so many rows, each with a prompt, a name and a column of the caller's own."""
    with file.open("w") as lines:
        for number in range(rows):
            row = {"prompt": f"a red star, number {number}", "custom_id": f"row-{number}", "topic": "stars"}
            lines.write(json.dumps(row) + "\n")


def submitted(folder: Path, url: str, broker: str, manifest: Path) -> Command:
    """Submit a manifest by the command, to a farm of these addresses; it prints the render's id."""
    return _farm(_environment(folder, url, broker), "render", "--prompts", str(manifest), "--no-wait")


def _farm(environment: dict[str, str], *arguments: str) -> Command:
    return run_command([sys.executable, "-m", "scheduler.cli.main", *arguments], environment)


def _environment(folder: Path, url: str, broker: str) -> dict[str, str]:
    return os.environ | {
        "FARM_HOME": str(folder / "home"),
        "FARM_DATABASE_URL": url,
        "FARM_BROKER_URL": broker,
        "FARM_OBJECTS_URL": str(folder / "objects"),
    }


@contextmanager
def _stores(folder: Path, kind: str) -> Iterator[tuple[str, str]]:
    """The addresses of an empty database and an empty broker."""
    file = folder / "farm.db"
    for old in folder.glob("farm.db*"):
        old.unlink()
    with redis_server(folder) as broker:
        if kind == "sqlite":
            upgrade(Database(f"sqlite:///{file}"))
            yield f"sqlite:///{file}", broker
            return
        with postgres_server() as server:
            url = server.url(server.create())
            upgrade(Database(url))
            yield url, broker


def _size(url: str) -> int:
    database = Database(url)
    with database.read() as connection:
        if connection.dialect.name == "postgresql":
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
        file = Path(str(database.engine.url.database))
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))


if __name__ == "__main__":
    main()
