"""What several suites share."""

from collections.abc import Iterator

import pytest

from scheduler.cron.firing import ScheduleRunner
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore
from tests.contract.renders import assert_rows_agree
from tests.contract.schedules import TWO_AT_NIGHT, Clock, runner_over


@pytest.fixture
def farm(database: Database) -> Iterator[Jobs]:
    """The moves of jobs, on each database; afterwards every counter must agree with its rows."""
    yield Jobs(database)
    assert_rows_agree(database)


@pytest.fixture
def clock() -> Clock:
    return Clock(TWO_AT_NIGHT - 3600)


@pytest.fixture
def runner(farm: Jobs, database: Database, objects: ObjectStore, clock: Clock) -> ScheduleRunner:
    return runner_over(farm, database, objects, clock)
