"""Many clients at once that submit renders over HTTP and ask for them until they are done.

python -m benchmarks.api --clients 200 --seconds 60 --database postgresql --out api.json

A farm with a simulated device is started on this machine. No answer may be an error, and no picture may be missing.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import psutil

from tests.acceptance.api import running_api
from tests.forks import Starter
from tests.servers import postgres_server

_POLL_SECONDS = 0.5


@dataclass
class Told:
    """What the clients met."""

    submit: list[float] = field(default_factory=list)
    status: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    renders: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with ExitStack() as held:
        settings = {}
        if options.database == "postgresql":
            server = held.enter_context(postgres_server())
            settings["FARM_DATABASE_URL"] = server.url(server.create())
        folder, starter = held.enter_context(tempfile.TemporaryDirectory()), Starter()
        api = held.enter_context(running_api(Path(folder) / "farm", starter, **settings))
        key = api.key("bench")
        result = {"database": options.database, **_measured(api.address, key, options.clients, options.seconds)}
    for name, value in result.items():
        click.echo(f"{name:24} {value}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _measured(address: str, key: str, clients: int, seconds: float) -> dict[str, Any]:
    server = next(
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and f":{connection.laddr.port}" in address
    )
    process, told, stop = psutil.Process(server), Told(), threading.Event()
    before = process.memory_info().rss
    threads = [threading.Thread(target=_client, args=(address, key, told, stop)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    after = process.memory_info().rss
    lost = _lost(address, key, told.renders)
    return {
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "clients": clients,
        "seconds": seconds,
        "renders": len(told.renders),
        "requests_per_second": round((len(told.submit) + len(told.status)) / seconds, 1),
        **{f"submit_{name}": value for name, value in _quantiles(told.submit).items()},
        **{f"status_{name}": value for name, value in _quantiles(told.status).items()},
        "errors": len(told.errors),
        "first_error": told.errors[0] if told.errors else None,
        "pictures_lost": lost,
        "memory_mib": [round(before / 2**20, 1), round(after / 2**20, 1)],
    }


def _client(address: str, key: str, told: Told, stop: threading.Event) -> None:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        while not stop.is_set():
            answer = _timed(told.submit, told, lambda: client.post("/v1/renders", json={"prompt": "a star"}))
            if answer is None:
                continue
            render_id = answer["id"]
            told.renders.append(render_id)
            while not stop.wait(_POLL_SECONDS):
                found = _timed(told.status, told, lambda: client.get(f"/v1/renders/{render_id}"))  # noqa: B023
                if found is None or found["state"] != "running":
                    break


def _timed(times: list[float], told: Told, ask: Any) -> Any:
    started = time.perf_counter()
    try:
        answer = ask()
    except httpx.HTTPError as error:
        told.errors.append(repr(error))
        return None
    times.append(time.perf_counter() - started)
    if answer.status_code >= 400:
        told.errors.append(f"{answer.status_code} {answer.text[:200]}")
        return None
    return answer.json()


def _lost(address: str, key: str, renders: Sequence[str]) -> int:
    """Accepted pictures that are not done once nothing waits any more."""
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        left = list(renders)
        deadline = time.monotonic() + 600
        while left and time.monotonic() < deadline:
            left = [one for one in left if client.get(f"/v1/renders/{one}").json()["state"] == "running"]
        return sum(client.get(f"/v1/renders/{one}").json()["state"] != "done" for one in renders)


def _quantiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[int(0.99 * len(ordered))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


if __name__ == "__main__":
    main()
