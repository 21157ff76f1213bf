"""Many clients at once that submit renders over HTTP and ask for them until they are done.

python -m benchmarks.api --clients 200 --seconds 60 --database postgresql --out api.json
python -m benchmarks.api --clients 100 --seconds 60 --waiting 200 --streams 100 --against ../before

A farm with a simulated device is started on this machine. No answer may be an error, and no picture may be missing.
Beside the clients, callers may wait for pictures of a model that nobody serves, and follow such renders.

With `--against`, the farm of another checkout, with its own code and this interpreter's packages, answers the same
afterwards; with `--rounds` both do so in turns.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import httpx
import psutil

from benchmarks.machine import REPOSITORY, commit
from tests.acceptance.api import MODELS, Api
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import eventually, postgres_server

_POLL_SECONDS = 0.5
#: States of a render of which nothing is held; earlier versions say `running` for both.
_UNFINISHED = {"waiting", "running"}
#: Until all who wait do so.
_SETTLING_SECONDS = 5.0
_LAST_SECONDS = 120.0
#: A model of the benchmark's registry that its worker is not told to serve.
_UNSERVED = "slow"
_BODY = {"prompt": "a star", "model": "quick"}
#: Made once: a client of its own would read the machine's certificates, which takes longer than its requests.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_JSON = {"Content-Type": "application/json"}


@dataclass
class Told:
    """What the clients met."""

    submit: list[float] = field(default_factory=list)
    status: list[float] = field(default_factory=list)
    healthz: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    renders: list[str] = field(default_factory=list)
    #: Those of which a client has heard that they are done.
    done: set[str] = field(default_factory=set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--waiting", type=int, default=0, help="requests for images that wait all the while")
    parser.add_argument("--streams", type=int, default=0, help="streams of events that are open all the while")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of the farm")
    parser.add_argument("--rounds", type=int, default=1, help="how often each answers (default: once)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    builds = {"this": REPOSITORY} | ({"other": options.against.resolve()} if options.against else {})
    if not all((path / "scheduler").is_dir() for path in builds.values()):
        parser.error(f"--against {options.against}: no checkout of the farm")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    for number in range(options.rounds):
        # Neither is always the first.
        for name in reversed(builds) if number % 2 else builds:
            found[name].append(_round(options, builds[name]))
    result = {
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "clients": options.clients,
        "seconds": options.seconds,
        "waiting": options.waiting,
        "streams": options.streams,
        "database": options.database,
        "commits": {name: commit(path) for name, path in builds.items()},
        "rounds": found,
    }
    click.echo(_table(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _round(options: argparse.Namespace, checkout: Path) -> dict[str, Any]:
    """Start the farm of a checkout and measure it."""
    with ExitStack() as held:
        settings = {"FARM_SERVE": "quick", "PYTHONPATH": str(checkout)}
        if options.database == "postgresql":
            server = held.enter_context(postgres_server())
            settings["FARM_DATABASE_URL"] = server.url(server.create())
        folder, starter = held.enter_context(tempfile.TemporaryDirectory()), Starter()
        api = held.enter_context(running_api(Path(folder) / "farm", starter, **settings))
        key = api.key("bench")
        beside = held.enter_context(_beside(api.address, key, options.waiting, options.streams))
        return {
            **measured(api.address, key, options.clients, options.seconds),
            "ended_early": sum(_ended(one) for one in beside),
        }


@contextmanager
def running_api(folder: Path, starter: Starter, **settings: str) -> Iterator[Api]:
    """Start a farm and its API, of any version: the words in which they say so have changed."""
    home = Home(folder, starter, FARM_WEBHOOK_PRIVATE="true", **settings)
    home.path.mkdir()
    (home.path / "models.toml").write_text(MODELS)
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        with home.started("api", "--port", "0") as api:
            api.says("Ctrl-C stops it")
            match = re.search(r"http://[\d.]+:\d+", api.err)
            if match is None:
                raise AssertionError(f"the API names no address: {api.err}")
            eventually(lambda: httpx.get(f"{match[0]}/readyz").is_success, "a worker serves")
            # Killed at the end: some versions would wait for whoever waits.
            yield Api(home, match[0])
        up.interrupted()


def _table(result: dict[str, Any]) -> str:
    """A line for each figure, a column for each round of each build."""
    columns = [(name, one) for name, rounds in result["rounds"].items() for one in rounds]
    lines = [f"{name:24} {value}" for name, value in result.items() if name != "rounds"]
    lines.append(f"{'':24}" + "".join(f"{name:>16}" for name, _ in columns))
    for figure in dict.fromkeys(figure for _, one in columns for figure in one if figure != "first_error"):
        lines.append(f"{figure:24}" + "".join(f"{one.get(figure)!s:>16}" for _, one in columns))
    lines += [f"first error of {name}: {one['first_error'][:200]}" for name, one in columns if one["first_error"]]
    return "\n".join(lines)


def measured(address: str, key: str, clients: int, seconds: float) -> dict[str, Any]:
    server = next(
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and f":{connection.laddr.port}" in address
    )
    process, told, stop = psutil.Process(server), Told(), threading.Event()
    before, spent = process.memory_info().rss, _cpu_seconds(process)
    threads = [threading.Thread(target=_client, args=(address, key, told, stop)) for _ in range(clients)]
    threads.append(threading.Thread(target=_healthy, args=(address, told, stop)))
    for thread in threads:
        thread.start()
    try:
        stop.wait(seconds)
        spent = _cpu_seconds(process) - spent
    finally:
        # Whatever has ended the round: they would ask for ever.
        stop.set()
        for thread in threads:
            thread.join()
    after = process.memory_info().rss
    lost = _lost(address, key, [one for one in told.renders if one not in told.done])
    return {
        "renders": len(told.renders),
        "renders_per_second": round(len(told.renders) / seconds, 1),
        "requests_per_second": round((len(told.submit) + len(told.status)) / seconds, 1),
        **{f"submit_{name}": value for name, value in _quantiles(told.submit).items()},
        **{f"status_{name}": value for name, value in _quantiles(told.status).items()},
        "errors": len(told.errors),
        "first_error": told.errors[0] if told.errors else None,
        "pictures_lost": lost,
        "cpu_seconds": round(spent, 1),
        "cpu_ms_per_answer": round(1000 * spent / max(1, len(told.submit) + len(told.status)), 2),
        **{f"healthz_{name}": value for name, value in _quantiles(told.healthz).items()},
        "mib_before": round(before / 2**20, 1),
        "mib_after": round(after / 2**20, 1),
    }


def _client(address: str, key: str, told: Told, stop: threading.Event) -> None:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=60, verify=_TLS) as client:
        while not stop.is_set():
            answer = _timed(
                told.submit, told, lambda: client.post("/v1/renders", json={"prompt": "a star", "model": "quick"})
            )
            if answer is None:
                stop.wait(_POLL_SECONDS)
                continue
            render_id = answer["id"]
            told.renders.append(render_id)
            while not stop.wait(_POLL_SECONDS):
                found = _timed(told.status, told, lambda: client.get(f"/v1/renders/{render_id}"))  # noqa: B023
                if found is None or found["state"] not in _UNFINISHED:
                    if found is not None and found["state"] == "done":
                        told.done.add(render_id)
                    break


def _healthy(address: str, told: Told, stop: threading.Event) -> None:
    with httpx.Client(base_url=address, timeout=60, verify=_TLS) as client:
        while not stop.wait(_POLL_SECONDS):
            started = time.perf_counter()
            try:
                client.get("/healthz").raise_for_status()
            except httpx.HTTPError as error:
                told.errors.append(f"/healthz: {error!r}")
            told.healthz.append(time.perf_counter() - started)


@contextmanager
def _beside(address: str, key: str, waiting: int, streams: int) -> Iterator[list[socket.socket]]:
    """Open connections whose answers do not come: requests for images of a model that nobody serves, and streams."""
    url, headers = urlsplit(address), {"Authorization": f"Bearer {key}"}
    body = json.dumps({"prompt": "a star", "model": _UNSERVED})
    with ExitStack() as held, httpx.Client(base_url=address, headers=headers, timeout=60, verify=_TLS) as client:
        follow = [client.post("/v1/renders", content=body, headers=_JSON).json()["id"] for _ in range(streams)]
        asked = [("POST", "/v1/images/generations", body)] * waiting
        asked += [("GET", f"/v1/renders/{render}/events", "") for render in follow]
        connections = []
        for method, path, content in asked:
            connection = held.enter_context(closing(socket.create_connection((url.hostname, url.port))))
            head = f"{method} {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall((head + content).encode())
            connections.append(connection)
        time.sleep(_SETTLING_SECONDS)
        yield connections


def _ended(connection: socket.socket) -> bool:
    """Whether an answer has come to its end, or an error instead of one."""
    connection.setblocking(False)
    try:
        got = connection.recv(2**20)
    except BlockingIOError:
        return False
    return not got.startswith(b"HTTP/1.1 200") or got.endswith(b"0\r\n\r\n")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


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
    """Accepted pictures that are not done once nothing waits any more, or after two minutes."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=address, headers=headers, timeout=10, verify=_TLS) as client:
        states = dict.fromkeys(renders, "running")
        deadline = time.monotonic() + _LAST_SECONDS
        while _UNFINISHED & set(states.values()) and time.monotonic() < deadline:
            for render_id in [one for one, state in states.items() if state in _UNFINISHED]:
                states[render_id] = _state(client, render_id) or "running"
                if time.monotonic() > deadline:
                    break
        return sum(state != "done" for state in states.values())


def _state(client: httpx.Client, render_id: str) -> str | None:
    """The state of a render; None if the API does not answer."""
    try:
        return str(client.get(f"/v1/renders/{render_id}").raise_for_status().json()["state"])
    except httpx.HTTPError:
        return None


def _quantiles(times: Sequence[float]) -> dict[str, float]:
    if not times:
        return {}  # nothing was answered; the errors say so
    ordered = sorted(times)
    return {
        "median_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[int(0.99 * len(ordered))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


if __name__ == "__main__":
    main()
