"""Why a single job waits, runs or ended, and the rules that decide."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.results.why_job import JobReason, why_job
from scheduler.services import Services
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.rules.faults import Fault
from storage.rules.states import Priority
from storage.settings import Settings
from tests.contract.renders import claim, complete, fail, pictures, submit
from tests.contract.test_why import MODELS, serve

Said = Callable[..., JobReason]


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    (tmp_path / "models.toml").write_text(MODELS)
    services = Services(settings=Settings(home=tmp_path), database=database)
    serve(services, "w1")
    return services


@pytest.fixture
def said(services: Services) -> Said:
    def of(render_id: str, index: int = 0) -> JobReason:
        return why_job(services, services.views.job(f"{render_id}-{index:06d}"))

    return of


def test_of_a_waiting_job_its_own_place_is_told_and_the_order(said: Said, farm: Jobs) -> None:
    render_id = submit(farm, pictures(12), owner="ann", priority=Priority.BULK)
    assert said(render_id).sentence == "waits: next in turn"
    assert said(render_id, 11).sentence == "waits: behind 11 pictures"
    [rule] = said(render_id, 11).rules
    assert "this one: bulk" in rule
    assert "of ann" in rule


def test_of_a_held_job_who_resumes_it(said: Said, farm: Jobs) -> None:
    render_id = submit(farm, pictures(1), held=True)
    assert said(render_id).sentence == f"held until somebody resumes it (`farm release {render_id}`)"
    assert said(render_id).rules == ("jobs of a held render are not claimed",)


def test_of_a_running_job_where_it_is_its_lease_and_its_attempts(said: Said, farm: Jobs) -> None:
    render_id = submit(farm, pictures(1))
    claim(farm)
    reason = said(render_id)
    assert reason.sentence.startswith("is rendered on w1 since ")
    lease, attempts = reason.rules
    assert "s; if that runs out, it goes back to the queue" in lease
    assert attempts == "1 of 3 attempts are counted against it"


def test_of_a_job_that_was_tried_before_the_fault_and_who_leaves_it_to_others(
    services: Services, said: Said, farm: Jobs
) -> None:
    serve(services, "w2")
    render_id = submit(farm, pictures(1))
    fail(farm, claim(farm).jobs[0], "it took too long", fault=Fault.TIMEOUT)
    _, alone, elsewhere, attempts = said(render_id).rules
    assert "rendered alone" in alone
    assert "leaves it to other workers until" in elsewhere
    assert attempts == "1 of 3 attempts are counted against it; the last one ended with: timeout"


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (
            Fault.BAD_SPECIFICATION,
            "bad specification fails a picture at once: it would fail in the same way everywhere",
        ),
        (Fault.OUT_OF_MEMORY, "out of memory fails a picture at once where no other worker serves its model"),
        (
            Fault.PIPELINE_ERROR,
            "after 3 attempts a picture is not tried again; this one's last ended with: pipeline error",
        ),
    ],
)
def test_of_a_failed_job_the_error_and_the_rule_that_failed_it(said: Said, farm: Jobs, fault: Fault, rule: str) -> None:
    render_id = submit(farm, pictures(1))
    while said(render_id).sentence == "waits: next in turn" or "after a fault" in said(render_id).sentence:
        fail(farm, claim(farm).jobs[0], "what went wrong", fault=fault)
    reason = said(render_id)
    assert ": what went wrong" in reason.sentence
    assert reason.rules == (rule, f"`farm retry {render_id}` queues it again, with the same seed")


def test_of_one_that_is_done_or_cancelled_when_and_by_whom(said: Said, farm: Jobs) -> None:
    render_id = submit(farm, pictures(2))
    complete(farm, claim(farm, limit=1))
    farm.cancel(render_id)
    assert said(render_id, 0).sentence.endswith(" by w1, attempt 1")
    assert said(render_id, 1).sentence.startswith("cancelled at ")
