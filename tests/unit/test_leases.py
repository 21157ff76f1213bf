"""Which leases a worker renews, and how it learns what it lost."""

import threading
from collections.abc import Iterable

import pytest

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.jobs.values import Claim, ClaimedJob, Submission
from storage.rules.faults import RetryPolicy
from storage.rules.states import Priority
from storage.settings import Settings
from storage.spec.picture import Request
from storage.spec.registry import read_registry
from tests.servers import eventually
from worker.serving.leases import Leases
from worker.serving.watchdog import Watchdog


@pytest.fixture
def claim(sqlite: str) -> Iterable[tuple[Jobs, Claim]]:
    """Two jobs that worker `w` just claimed."""
    database = Database(sqlite)
    jobs = Jobs(database, RetryPolicy(lease_seconds=1.5))
    registry = read_registry(Settings())
    specs = (registry.resolve(Request.parse({"prompt": "a red star"}), seed=seed) for seed in range(2))
    jobs.submit(specs, Submission(owner="ann", priority=Priority.NORMAL), quanta={"shapes": 8})
    found = jobs.claim(model="shapes", worker="w", limit=8)
    assert found is not None
    yield jobs, found
    database.close()


def lapsed(jobs: Jobs) -> int:
    return jobs.recover_lapsed()


def keeping(jobs: Jobs, *, stall_seconds: float, claimed: Iterable[ClaimedJob]) -> Leases:
    watchdog = Watchdog(stall_seconds=stall_seconds)
    leases = Leases(jobs, renew_seconds=0.25, watchdog=watchdog, on_stall=lambda _: None)
    leases.add(claimed)
    watchdog.begin("a batch")
    leases.start()
    return leases


def test_leases_outlive_their_time_while_the_device_shows_progress(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=60, claimed=found.jobs)
    with pytest.raises(AssertionError, match="a lease ran out"):
        eventually(lambda: lapsed(jobs), "a lease ran out", timeout=2.5)
    leases.drop(found.jobs)


def test_a_device_without_progress_loses_its_jobs(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=0.1, claimed=found.jobs)
    assert eventually(lambda: lapsed(jobs), "the leases ran out", timeout=8) == 2
    leases.drop(found.jobs)


def test_pictures_on_their_way_to_the_store_are_renewed_whatever_the_device_does(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=0.1, claimed=found.jobs)
    leases.rendered(found.jobs)
    with pytest.raises(AssertionError, match="a lease ran out"):
        eventually(lambda: lapsed(jobs), "a lease ran out", timeout=2.5)
    leases.drop(found.jobs)


def test_a_batch_is_lost_when_all_of_its_jobs_are(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=60, claimed=found.jobs)
    assert not leases.all_lost(found.jobs)
    jobs.cancel(found.jobs[0].render_id)
    eventually(lambda: leases.all_lost(found.jobs), "the worker knows that its jobs were cancelled", timeout=5)
    leases.drop(found.jobs)


def test_what_is_being_published_is_waited_for_but_not_for_ever(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=60, claimed=found.jobs)
    leases.until_published(60)  # nothing is on its way
    leases.rendered(found.jobs)
    leases.until_published(0.1)
    threading.Timer(0.2, leases.drop, [found.jobs]).start()
    leases.until_published(60)
    assert leases.at_the_device(found.jobs) == []
