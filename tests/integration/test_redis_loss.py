"""Redis dies in the middle of the work and comes back with nothing in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import BrokerProblem
from tests.integration.farm import Farm, device_processes
from tests.mortal import MortalRedis
from tests.servers import eventually


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    redis = MortalRedis(tmp_path)
    yield redis
    redis.close()


@pytest.fixture
def redis_url(redis: MortalRedis) -> str:
    """The farm of these tests has a Redis of its own."""
    return redis.url


def test_nothing_is_lost_and_nobody_dies_with_redis(farm: Farm, redis: MortalRedis) -> None:
    farm.scheduler()
    supervisor = farm.workers(2)
    render_id = farm.submit(160, model="slow")
    farm.some_done(render_id)
    before = {device: process.pid for device, process in device_processes(supervisor).items()}

    redis.kill()
    with pytest.raises(BrokerProblem):
        farm.tickets.check()
    unheard = farm.submit(8, model="quick", call=False)
    redis.start()

    farm.finished(render_id, timeout=90)
    farm.finished(unheard, timeout=60)
    farm.assert_sound(render_id)
    farm.assert_sound(unheard)
    assert {device: process.pid for device, process in device_processes(supervisor).items()} == before
    eventually(lambda: farm.tickets.in_hand() == 0, "no ticket is held by anyone", timeout=30)
