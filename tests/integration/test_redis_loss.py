"""Redis dies in the middle of the work and comes back with nothing in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import BrokerProblem
from storage.rules.states import Priority
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
    render_id = farm.submit(96, model="slow")
    farm.some_done(render_id)
    before = {device: process.pid for device, process in device_processes(supervisor).items()}

    redis.kill()
    with pytest.raises(BrokerProblem):
        farm.tickets.check()
    unheard = farm.submit(8, model="quick", call=False)
    redis.start()

    farm.finished(render_id)
    farm.finished(unheard)
    farm.assert_sound(render_id)
    farm.assert_sound(unheard)
    assert {device: process.pid for device, process in device_processes(supervisor).items()} == before
    eventually(lambda: farm.tickets.in_hand() == 0, "no ticket is held by anyone")


# What follows has nothing to do with where rows and pictures are.
alone = pytest.mark.parametrize("stores", ["sqlite+folder"], indirect=True)


@alone
def test_a_machine_that_starts_before_its_redis_waits_for_it(farm: Farm, redis: MortalRedis) -> None:
    redis.kill()
    log = farm.folder / "workers-early.log"
    early = farm.machine(1, name="early")
    eventually(lambda: "service unavailable, waiting until it answers" in log.read_text(), "it says what it waits for")
    redis.start()
    farm.finished(farm.submit(8, model="quick"))
    assert early.poll() is None


@alone
def test_a_scheduler_process_that_starts_before_its_redis_waits_for_it(farm: Farm, redis: MortalRedis) -> None:
    redis.kill()
    scheduler, log = farm.scheduler(), farm.folder / "scheduler.log"
    eventually(lambda: "service unavailable, waiting until it answers" in log.read_text(), "it says what it waits for")
    redis.start()
    farm.workers(1)
    # Nobody but the scheduler process calls a worker for these.
    farm.finished(farm.submit(8, model="quick", call=False))
    assert scheduler.poll() is None


@alone
def test_a_redis_that_is_full_refuses_tickets_and_no_render(farm: Farm, redis: MortalRedis) -> None:
    farm.scheduler()
    farm.workers(1)
    render_id = farm.submit(32, model="slow")
    farm.some_done(render_id)
    redis.client.config_set("maxmemory-policy", "noeviction")
    redis.client.config_set("maxmemory", "1")

    with pytest.raises(BrokerProblem, match="memory"):
        farm.tickets.publish("quick", Priority.NORMAL)
    accepted = farm.submit(16, model="quick", call=False)
    redis.client.config_set("maxmemory", "0")

    for one in (render_id, accepted):
        farm.finished(one)
        farm.assert_sound(one)
    assert {row.attempt for row in farm.rows(accepted)} == {1}


@alone
def test_a_redis_that_comes_back_with_another_password_is_told_and_lost_nothing(farm: Farm, redis: MortalRedis) -> None:
    farm.scheduler()
    farm.workers(1)
    render_id = farm.submit(64, model="slow")
    farm.some_done(render_id)

    redis.kill()
    redis.start(password="another")
    with pytest.raises(BrokerProblem, match="the password is refused"):
        farm.tickets.check()
    redis.kill()
    redis.start()

    assert farm.finished(render_id).done == 64
    farm.assert_sound(render_id)
