"""Which leases a worker renews, and how it learns what it lost."""

import threading
from collections.abc import Iterable

import pytest
from sqlalchemy import select

from storage.database import tables
from storage.database.connection import Database
from storage.errors import DatabaseProblem
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
    jobs = Jobs(database, RetryPolicy(lease_seconds=60))
    registry = read_registry(Settings())
    specs = (registry.resolve(Request.parse({"prompt": "a red star"}), seed=seed) for seed in range(2))
    jobs.submit(specs, Submission(owner="ann", priority=Priority.NORMAL), quanta={"shapes": 8})
    found = jobs.claim(model="shapes", worker="w", limit=8)
    assert found is not None
    yield jobs, found
    database.close()


def leased_until(jobs: Jobs) -> tuple[float, ...]:
    """When the leases of the two jobs end, in the order of their ids."""
    with jobs.database.read() as connection:
        return tuple(connection.execute(select(tables.jobs.c.lease_until).order_by(tables.jobs.c.id)).scalars())


def keeping(jobs: Jobs, *, stall_seconds: float, claimed: Iterable[ClaimedJob]) -> Leases:
    watchdog = Watchdog(stall_seconds=stall_seconds)
    leases = Leases(jobs, renew_seconds=0.25, watchdog=watchdog, on_stall=lambda _: None)
    leases.add(claimed)
    watchdog.begin("a batch")
    leases.start()
    return leases


def test_leases_are_renewed_while_the_device_shows_progress(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    one, other = leased_until(jobs)
    leases = keeping(jobs, stall_seconds=60, claimed=found.jobs)
    eventually(lambda: leased_until(jobs)[0] > one and leased_until(jobs)[1] > other, "both leases are renewed")
    leases.drop(found.jobs)


def test_without_progress_only_pictures_on_their_way_to_the_store_are_renewed(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    at_the_device, on_its_way = sorted(found.jobs, key=lambda job: job.id)
    one, other = leased_until(jobs)
    leases = keeping(jobs, stall_seconds=0.1, claimed=found.jobs)
    leases.rendered([on_its_way])
    eventually(lambda: leased_until(jobs)[1] > other + 1, "the lease of the rendered picture was renewed twice")
    assert leased_until(jobs)[0] == one
    assert leases.at_the_device(found.jobs) == [at_the_device]
    leases.drop(found.jobs)


def test_a_batch_is_lost_when_all_of_its_jobs_are(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=60, claimed=found.jobs)
    assert not leases.all_lost(found.jobs)
    jobs.cancel(found.jobs[0].render_id)
    eventually(lambda: leases.all_lost(found.jobs), "the worker knows that its jobs were cancelled")
    leases.drop(found.jobs)


def test_after_a_pause_it_is_asked_whether_a_job_is_ours(
    claim: tuple[Jobs, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, found = claim
    leases = Leases(jobs, renew_seconds=10, watchdog=Watchdog(stall_seconds=60), on_stall=lambda _: None)
    [job, _] = found.jobs
    jobs.cancel(job.render_id)
    assert leases.still_ours(job), "as was known a moment ago"
    monkeypatch.setattr("worker.serving.leases._FRESH_SECONDS", 0.0)
    assert not leases.still_ours(job)

    def away(_: Iterable[ClaimedJob]) -> set[int]:
        raise DatabaseProblem("away")

    monkeypatch.setattr(jobs, "still_held", away)
    assert leases.still_ours(job), "nobody can have taken it from a database that is away"


def test_what_is_being_published_is_waited_for_but_not_for_ever(claim: tuple[Jobs, Claim]) -> None:
    jobs, found = claim
    leases = keeping(jobs, stall_seconds=60, claimed=found.jobs)
    leases.until_published(60)  # nothing is on its way
    leases.rendered(found.jobs)
    leases.until_published(0.1)
    threading.Timer(0.2, leases.drop, [found.jobs]).start()
    leases.until_published(60)
    assert leases.at_the_device(found.jobs) == []
