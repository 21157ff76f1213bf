"""What several suites share."""

from collections.abc import Iterator

import pytest

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from tests.contract.renders import assert_rows_agree


@pytest.fixture
def farm(database: Database) -> Iterator[Jobs]:
    """The moves of jobs, on each database; afterwards every counter must agree with its rows."""
    yield Jobs(database)
    assert_rows_agree(database)
