"""Each service is taken away in the middle of the work and comes back: nobody dies, nothing is lost or burned."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from urllib.parse import urlsplit

import boto3
import psutil
import pytest

from storage.fleet.fault_log import FaultLog
from storage.rules.faults import Fault
from storage.rules.states import State
from storage.settings import Settings
from tests.integration.farm import SHORT_LEASES, Farm
from tests.proxy import HttpProxy, Loop, Mode, Moods, Proxy, proxy_loop
from tests.servers import PostgresServer, eventually

pytestmark = pytest.mark.parametrize("stores", ["postgresql+s3"], indirect=True)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with proxy_loop() as loop:
        yield loop


@pytest.fixture
def database_link(loop: Loop, postgres_server: PostgresServer) -> Iterator[Proxy]:
    proxy = Proxy(loop, postgres_server.socket)
    yield proxy
    proxy.close()


@pytest.fixture
def redis_link(loop: Loop, redis_url: str) -> Iterator[Proxy]:
    proxy = Proxy(loop, urlsplit(redis_url).port or 0)
    yield proxy
    proxy.close()


@pytest.fixture
def store_link(loop: Loop, s3: Settings) -> Iterator[HttpProxy]:
    proxy = HttpProxy(loop, urlsplit(s3.s3_endpoint_url or "").port or 0, Random(1))
    yield proxy
    proxy.close()


@contextmanager
def everyone_lives(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """The same processes run afterwards: each part, and each of its children."""
    before = {process.pid: _below(process.pid) for process in processes}
    yield
    assert {process.pid: _below(process.pid) for process in processes} == before


def _below(pid: int) -> set[int]:
    return {process.pid for process in psutil.Process(pid).children(recursive=True)}


def take_away(link: Proxy, mode: Mode, *, seconds: float) -> None:
    """In the middle of the work, for longer than any of its short leases."""
    link.set(mode)
    time.sleep(seconds)  # there is no condition: that it lasts is what this is about
    link.set(Mode.PASS)


# A Redis that is gone is in test_redis_loss.py.
@pytest.mark.parametrize(
    ("service", "mode"),
    [("database", Mode.CUT), ("database", Mode.STALL), ("redis", Mode.STALL), ("store", Mode.CUT)],
)
def test_a_service_that_was_away_costs_time_and_nothing_else(
    farm: Farm,
    service: str,
    mode: Mode,
    database_link: Proxy,
    redis_link: Proxy,
    store_link: Proxy,
    postgres_server: PostgresServer,
    request: pytest.FixtureRequest,
) -> None:
    link = {"database": database_link, "redis": redis_link, "store": store_link}[service]
    redis = urlsplit(str(farm.settings.broker_url))
    farm.environment |= SHORT_LEASES | {
        "FARM_DATABASE_URL": postgres_server.tcp_url(farm.services.database.url, database_link.port),
        "FARM_BROKER_URL": f"redis://:{redis.password}@127.0.0.1:{redis_link.port}/0",
        "FARM_S3_ENDPOINT_URL": f"http://127.0.0.1:{store_link.port}",
    }
    parts = [farm.scheduler(), farm.workers(2)]
    render_id = farm.submit(64, model="slow")
    farm.some_done(render_id)

    with everyone_lives(*parts):
        take_away(link, mode, seconds=request.config.getoption("--outage"))
        farm.finished(render_id)

    farm.assert_sound(render_id)
    assert farm.render(render_id).done == 64
    assert {row.attempt for row in farm.rows(render_id)} == {1}
    for log in ("scheduler", "workers-here"):
        lines = (farm.folder / f"{log}.log").read_text().splitlines()
        complaints = [line for line in lines if " WARNING " in line or " ERROR " in line]
        # Of each of its processes and threads that met it, one a minute.
        minutes = 1 + (said_at(complaints[-1]) - said_at(complaints[0])) // timedelta(minutes=1) if complaints else 0
        assert len(complaints) <= 12 * minutes, "\n".join(complaints)


def said_at(line: str) -> datetime:
    return datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S")


def test_a_store_that_refuses_is_told_at_once_and_work_goes_on_when_it_is_mended(farm: Farm, s3: Settings) -> None:
    missing = "a-bucket-yet-to-be-made"
    farm.workers(1, FARM_OBJECTS_URL=f"s3://{missing}")
    render_id = farm.submit(80, model="quick")

    eventually(lambda: farm.services.workers.all()[0].trouble, "the worker tells what it waits for")

    [worker] = farm.services.workers.all()
    assert "the bucket does not exist; create it or correct FARM_OBJECTS_URL" in str(worker.trouble)
    # Two batches wait for the store, one has left its slots, and twice the slots are claimed: memory is bounded.
    assert sum(row.state == State.RUNNING for row in farm.rows(render_id)) <= 5 * 8
    [fault] = FaultLog(farm.services.database).latest(limit=5)
    assert (fault.fault, fault.job) == (Fault.STORE_AWAY, None)
    client = boto3.client("s3", endpoint_url=s3.s3_endpoint_url)
    client.create_bucket(Bucket=missing)
    client.close()
    assert farm.finished(render_id).done == 80
    assert {row.attempt for row in farm.rows(render_id)} == {1}
    eventually(lambda: farm.services.workers.all()[0].trouble is None, "the trouble is over")


def test_a_store_that_errs_now_and_then_leaves_every_picture_once(farm: Farm, store_link: HttpProxy) -> None:
    store_link.moods = Moods(refused=0.1, unanswered=0.1)
    farm.environment["FARM_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{store_link.port}"
    farm.workers(1)
    render_id = farm.submit(40, model="quick")
    assert farm.finished(render_id).done == 40
    farm.assert_sound(render_id)
    assert {row.attempt for row in farm.rows(render_id)} == {1}
