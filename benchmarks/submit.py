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
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import redis
from celery import Celery
from sqlalchemy import text

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
        with redis_server(folder) as broker:
            delayed = _delayed(broker)
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
    with manifest.open("w") as file:
        for number in range(rows):
            row = {"prompt": f"a red star, number {number}", "custom_id": f"row-{number}", "topic": "stars"}
            file.write(json.dumps(row) + "\n")
    with _stores(folder, kind) as (url, broker):
        environment = os.environ | {
            "FARM_HOME": str(folder / "home"),
            "FARM_DATABASE_URL": url,
            "FARM_BROKER_URL": broker,
            "FARM_OBJECTS_URL": str(folder / "objects"),
        }
        seconds, peak, printed = _run(environment, "render", "--prompts", str(manifest), "--no-wait")
        render_id = printed.strip()
        status = min(_run(environment, "status", render_id)[0] for _ in range(5))
        nothing = min(_run(environment, "--version")[0] for _ in range(5))
        client = redis.Redis.from_url(broker)
        return {
            "database": kind,
            "rows": rows,
            "seconds": round(seconds, 1),
            "rows_per_second": round(rows / seconds),
            "peak_mib": round(peak),
            "database_mb": round(_size(url) / 1e6),
            "messages": sum(client.llen(key) for key in client.scan_iter("farm:model.*")),
            "status_seconds": round(status, 2),
            "starting_a_command_seconds": round(nothing, 2),
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


def _run(environment: dict[str, str], *arguments: str) -> tuple[float, float, str]:
    """Run a command of the farm: seconds, peak MiB, what it printed."""
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "scheduler.cli.main", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        printed = process.stdout.read() if process.stdout else ""
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"farm {' '.join(arguments)} ended with {process.returncode}")
    return time.monotonic() - started, _kib(used) / 1024, printed


def _kib(used: resource.struct_rusage) -> int:
    return used.ru_maxrss if sys.platform != "darwin" else used.ru_maxrss // 1024


def _size(url: str) -> int:
    database = Database(url)
    with database.read() as connection:
        if connection.dialect.name == "postgresql":
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
        file = Path(str(database.engine.url.database))
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))


def _delayed(broker: str) -> float:
    """Messages a second of the customary way: one task a picture, its prompt within."""
    app = Celery(broker=broker, set_as_current=False)
    started = time.monotonic()
    for number in range(_DELAYED):
        app.send_task("render", kwargs={"prompt": f"a red star, number {number}", "seed": number})
    return _DELAYED / (time.monotonic() - started)


if __name__ == "__main__":
    main()
