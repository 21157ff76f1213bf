"""What several suites share."""

from collections.abc import Iterator
from typing import Any

import pytest

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore
from tests.contract.datasets import MADE, contents, hugging_face, read_back
from tests.contract.firings import Gate
from tests.contract.locks import LOCKS
from tests.contract.renders import assert_rows_agree
from tests.contract.schedules import TWO_AT_NIGHT, ByTurns, Clock, runner_over


@pytest.fixture
def farm(database: Database) -> Iterator[Jobs]:
    """The moves of jobs, on each database; afterwards every counter must agree with its rows."""
    yield Jobs(database)
    assert_rows_agree(database)


@pytest.fixture
def clock() -> Clock:
    return Clock(TWO_AT_NIGHT - 3600)


@pytest.fixture
def runner(farm: Jobs, database: Database, objects: ObjectStore, clock: Clock) -> ByTurns:
    return runner_over(farm, database, objects, clock)


@pytest.fixture
def gate(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(objects, monkeypatch)
    yield gate
    gate.open()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Hugging Face's `datasets`, which must not look at any hub."""
    with hugging_face(tmp_path_factory.mktemp("hub")) as datasets:
        yield datasets


@pytest.fixture(autouse=True)
def no_lock_is_held_across_a_network_call() -> Iterator[None]:
    """Nobody asks a store or a broker anything within a transaction that writes."""
    LOCKS.met.clear()
    yield
    assert LOCKS.met == [], "\n".join(LOCKS.met)


@pytest.fixture(autouse=True)
def every_export_is_read_back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test has exported can be read by the call that `scheduler/README.md` names."""
    MADE.clear()
    yield
    if MADE:
        with hugging_face(tmp_path_factory.mktemp("hub")) as datasets:
            # What is the same to the last byte is read alike.
            different = {(layout, *sorted(contents(folder).items())): folder for folder, layout in MADE.items()}
            for (layout, *_), folder in different.items():
                read_back(datasets, folder, str(layout))
