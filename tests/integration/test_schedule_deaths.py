"""Scheduler processes are killed and frozen while they take and accept firings: none is lost, none is doubled."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Row, func, select, update

from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import intake_of
from scheduler.intake.templates import Templates
from storage.database.schedule_tables import firings, schedules
from storage.database.tables import jobs, renders
from storage.jobs.jobs import Jobs
from storage.renders.schedules import FiringOutcome, Plan, Schedule, Schedules
from storage.rules.faults import RetryPolicy
from storage.settings import Settings
from tests.integration.farm import SHORT_LEASES, Farm, resume
from tests.proxy import HttpProxy, Mode, proxy_loop
from tests.servers import PATIENCE_SECONDS, eventually

#: Takes seconds to specify: long enough to be frozen in, however late that is asked for.
MANY = 30_000
#: Takes long enough to be killed in; where that comes too late, what must be true is true all the more.
SOME = 6_000
YEARLY = Plan(cron="0 0 1 1 *", timezone="UTC", window=None, overlap="queue", catch_up="last", seeds="fresh")


@pytest.fixture
def farm(farm: Farm) -> Farm:
    farm.environment.update(SHORT_LEASES)
    return farm


def add(farm: Farm, name: str, order: Order) -> Schedule:
    """A schedule with one time to make up for, as soon as a clock looks."""
    intake = intake_of(farm.services, None)
    kept = store_order(intake, Submitter(owner="ann", local_files=True), order, Terms(), same_seeds=False)
    made = Schedules(farm.services.database).add(
        owner="ann", name=name, plan=YEARLY, order=kept.model_dump(mode="json")
    )
    with farm.services.database.write() as connection:
        year = 366 * 86400
        connection.execute(update(schedules).where(schedules.c.id == made.id).values(decided_to=made.created_at - year))
    return made


def many(pictures: int) -> Order:
    return Order(prompts=("a star",), pictures_each=pictures, defaults={"model": "slow"})


def firing_of(farm: Farm, schedule: Schedule) -> Row[*tuple[object, ...]] | None:
    with farm.services.database.read() as connection:
        return connection.execute(select(firings).where(firings.c.schedule_id == schedule.id)).first()


def outcome(farm: Farm, schedule: Schedule) -> str | None:
    found = firing_of(farm, schedule)
    return None if found is None else found.outcome


def fence(farm: Farm, schedule: Schedule) -> int:
    found = firing_of(farm, schedule)
    return 0 if found is None else found.fence


def assert_each_fired_once(farm: Farm, expected: dict[str, int]) -> None:
    """Every schedule has one firing, with a render of so many pictures, and there is no other render."""
    with farm.services.database.read() as connection:
        rows = connection.execute(
            select(schedules.c.name, firings.c.outcome, firings.c.render_id, firings.c.note).join(
                firings, firings.c.schedule_id == schedules.c.id
            )
        ).all()
        counting = select(jobs.c.render_id, func.count().label("n")).group_by(jobs.c.render_id)
        counted = {row.render_id: row.n for row in connection.execute(counting)}
        totals = {row.id: row.total for row in connection.execute(select(renders.c.id, renders.c.total))}
    assert {row.outcome for row in rows} == {FiringOutcome.FIRED}, rows
    assert counted == totals == {row.render_id: expected[row.name] for row in rows}
    assert sorted(row.name for row in rows) == sorted(expected)


@contextmanager
def locked(farm: Farm, schedule: Schedule) -> Iterator[None]:
    """Nobody accepts a firing of this schedule meanwhile; on SQLite, nobody writes."""
    with farm.services.database.write() as connection:
        connection.execute(select(schedules).where(schedules.c.id == schedule.id).with_for_update())
        yield


#: When it is killed: as soon as its row is seen; in hand; in the transaction that accepts; just after that.
MOMENTS: dict[str, Callable[[Farm, Schedule], bool]] = {
    "taken": lambda farm, schedule: outcome(farm, schedule) is not None,
    "in hand": lambda farm, schedule: fence(farm, schedule) > 0,
    "fired": lambda farm, schedule: outcome(farm, schedule) == "fired",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_scheduler_that_is_killed_while_it_accepts_loses_nothing_and_doubles_nothing(farm: Farm, moment: str) -> None:
    schedule = add(farm, "long", many(SOME))
    process = farm.scheduler()
    eventually(lambda: MOMENTS[moment](farm, schedule), f"its firing is {moment}")
    process.kill()
    process.wait()

    farm.scheduler()
    eventually(lambda: outcome(farm, schedule) == "fired", "another one has accepted it")
    assert_each_fired_once(farm, {"long": SOME})


def test_a_scheduler_that_is_killed_before_it_may_commit_leaves_the_firing_to_another(farm: Farm) -> None:
    schedule = add(farm, "long", many(3000))
    process = farm.scheduler()
    eventually(lambda: fence(farm, schedule), "its firing is in hand")
    with locked(farm, schedule):
        process.kill()
        process.wait()
    farm.scheduler()
    eventually(lambda: outcome(farm, schedule) == "fired", "another one has accepted it")
    assert_each_fired_once(farm, {"long": 3000})


def test_a_scheduler_that_froze_longer_than_its_lease_accepts_nothing_when_it_wakes(farm: Farm) -> None:
    schedule = add(farm, "long", many(MANY))
    frozen = farm.scheduler()
    eventually(lambda: fence(farm, schedule), "its firing is in hand")
    asleep = farm.freeze(frozen)
    try:
        assert outcome(farm, schedule) == "taken", "it was frozen before it was done"
        other = farm.scheduler()
        eventually(lambda: outcome(farm, schedule) == "fired", "another one has accepted it")
    finally:
        resume(asleep)
    # It goes on, and fires what comes next: nothing of the old firing is left to do.
    other.kill()
    other.wait()
    add(farm, "next", many(3))
    eventually(lambda: len(renders_of(farm)) == 2, "it has fired the next one")
    assert_each_fired_once(farm, {"long": MANY, "next": 3})
    assert frozen.poll() is None


def renders_of(farm: Farm) -> list[str]:
    with farm.services.database.read() as connection:
        return list(connection.execute(select(renders.c.id)).scalars())


@pytest.mark.slow
def test_schedulers_that_are_killed_again_and_again_fire_everything_once(farm: Farm) -> None:
    rng = Random(7)
    expected = {"long": SOME, **{f"short {n}": n + 1 for n in range(8)}}
    made = {name: add(farm, name, many(pictures)) for name, pictures in expected.items()}
    running = [farm.scheduler(), farm.scheduler()]
    for kills in range(4):  # a firing is given up after five
        enough = rng.randrange(len(expected))
        eventually(
            lambda: sum(fence(farm, one) > 0 for one in made.values()) >= enough,  # noqa: B023 - within the round
            f"{enough} firings were claimed before kill {kills}",
        )
        dead = running.pop(0)
        dead.kill()
        dead.wait()
        running.append(farm.scheduler())
    eventually(lambda: all(outcome(farm, one) == "fired" for one in made.values()), "everything has fired")
    assert_each_fired_once(farm, expected)


@pytest.fixture
def store_link(s3: Settings) -> Iterator[HttpProxy]:
    with proxy_loop() as loop:
        proxy = HttpProxy(loop, urlsplit(s3.s3_endpoint_url or "").port or 0, Random(1))
        yield proxy
        proxy.close()


@pytest.mark.parametrize("stores", ["postgresql+s3"], indirect=True)
def test_a_store_that_hangs_for_one_schedule_stops_neither_the_others_nor_the_sweep(
    farm: Farm, store_link: HttpProxy
) -> None:
    hanging = add(farm, "hangs", many(5))
    farm.environment["FARM_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{store_link.port}"
    store_link.set(Mode.STALL)
    process = farm.scheduler()
    eventually(lambda: fence(farm, hanging), "its prompts are waited for")

    # Later than that, and meanwhile: another schedule, and a job whose worker died.
    bare = add(farm, "bare", Order(templates=Templates(texts=("a star",)), defaults={"model": "quick"}))
    eventually(lambda: outcome(farm, bare) == "fired", "the other one has fired")
    claim = Jobs(farm.services.database, RetryPolicy(lease_seconds=1)).claim(model="quick", worker="w1", limit=1)
    assert claim is not None
    render_id = claim.jobs[0].render_id
    eventually(lambda: farm.rows(render_id)[0].state == "queued", "its lease has run out and was swept")
    assert outcome(farm, hanging) == "taken"

    process.kill()
    process.wait()
    store_link.set(Mode.PASS)
    farm.scheduler()
    eventually(lambda: outcome(farm, hanging) == "fired", "it has fired when the store is back")
    assert_each_fired_once(farm, {"hangs": 5, "bare": 1})


def test_a_scheduler_that_stops_leaves_its_firing_without_a_lease(farm: Farm) -> None:
    farm.environment.update(FARM_LEASE_SECONDS="3600", FARM_RENEW_SECONDS="1")
    schedule = add(farm, "long", many(SOME))
    process: subprocess.Popen[bytes] = farm.scheduler()
    eventually(lambda: fence(farm, schedule), "its firing is in hand")
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 0
    farm.scheduler()
    eventually(lambda: outcome(farm, schedule) == "fired", "another one has accepted it, without waiting for an hour")
    assert_each_fired_once(farm, {"long": SOME})
