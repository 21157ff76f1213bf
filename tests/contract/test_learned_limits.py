"""What was learned about batches, and what is claimed whole however large it is, on both databases."""

import pytest
from sqlalchemy import func, select, update

from scheduler.api.response_models import WorkerAnswer
from storage.database.connection import Database
from storage.database.tables import learned_limits
from storage.events.log import EventKind
from storage.fleet.learned_limits import CallKind, LearnedLimit, LearnedLimits
from storage.fleet.workers import WorkerActivity, Workers
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission, Webhook
from storage.rules.states import Priority
from tests.contract.renders import claim, pictures, submit
from tests.contract.test_workers import announce

KIND = CallKind(model="tiny", entry="0123456789abcdef", width=64, height=64, device_name="NVIDIA H200 😀")
DAY = 86400.0


@pytest.fixture
def limits(database: Database) -> LearnedLimits:
    return LearnedLimits(database)


def grow_old(database: Database, seconds: float) -> None:
    with database.write() as connection:
        connection.execute(update(learned_limits).values(learned_at=learned_limits.c.learned_at - seconds))


def test_what_was_learned_is_there_for_the_next_worker(limits: LearnedLimits, database: Database) -> None:
    assert limits.of(KIND) is None
    limits.learn(KIND, LearnedLimit(pictures=16, settled=False))
    limits.learn(KIND, LearnedLimit(pictures=32, settled=True))

    found = LearnedLimits(database).of(KIND)

    assert found is not None
    assert (found.pictures, found.settled) == (32, True)
    assert 0 <= found.age < 5


@pytest.mark.parametrize(
    "other", [{"model": "b"}, {"entry": "f" * 16}, {"width": 128}, {"height": 128}, {"device_name": "NVIDIA L4"}]
)
def test_it_holds_for_that_device_model_entry_and_size_alone(limits: LearnedLimits, other: dict[str, str]) -> None:
    limits.learn(KIND, LearnedLimit(pictures=32, settled=True))
    another = CallKind(**{**KIND.__dict__, **other})
    assert limits.of(another) is None
    limits.learn(another, LearnedLimit(pictures=4, settled=True))
    found = [limits.of(kind) for kind in (KIND, another)]
    assert [limit and limit.pictures for limit in found] == [32, 4]


def test_it_is_known_how_old_it_is_and_forgotten_after_weeks(limits: LearnedLimits, database: Database) -> None:
    limits.learn(KIND, LearnedLimit(pictures=32, settled=True))
    grow_old(database, 2 * DAY)
    found = limits.of(KIND)
    assert found is not None
    assert found.age == pytest.approx(2 * DAY, abs=60)

    grow_old(database, 27 * DAY)
    assert limits.of(KIND) is None
    # What is learned next takes it out of the table.
    limits.learn(CallKind(**{**KIND.__dict__, "model": "b"}), LearnedLimit(pictures=4, settled=True))
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(learned_limits)).scalar_one() == 1


def test_a_worker_tells_its_limit_and_why(database: Database) -> None:
    crew = Workers(database)
    announce(crew, "w1")
    assert (crew.all()[0].batch_limit, crew.all()[0].limit_reason) == (None, None)
    crew.beat("w1", WorkerActivity(state="idle", model="tiny", pictures=0, batch_limit=32, limit_reason="learned"))
    [worker] = crew.all()
    assert (worker.batch_limit, worker.limit_reason) == (32, "learned")
    answer = WorkerAnswer.of(worker)
    assert (answer.batch_limit, answer.limit_reason) == (32, "learned")


def test_a_batch_that_is_made_again_is_claimed_whole(database: Database) -> None:
    farm = Jobs(database)
    submit(farm, pictures(40), together=True)
    submit(farm, pictures(40))
    first = claim(farm, limit=8)
    assert (len(first.jobs), {job.together for job in first.jobs}) == (40, {True})
    assert len(claim(farm, limit=8).jobs) == 8


def test_so_it_is_where_somebody_is_told_of_it(database: Database) -> None:
    # Which PostgreSQL claims in another way.
    farm, webhook = Jobs(database), Webhook(url="https://example.org/hook", events=(EventKind.JOB_STARTED,))
    told = Submission(owner="ann", priority=Priority.NORMAL, watched=True, webhook=webhook, together=True)
    farm.submit(pictures(20), told, quanta={"tiny": 8})
    assert len(claim(farm, limit=8).jobs) == 20
