"""The Python client does what the API does, and its errors are told apart."""

import inspect
from collections.abc import Iterator

import pytest

import diffusion_farm
from diffusion_farm import (
    ApiProblem,
    AuthenticationProblem,
    ConflictProblem,
    Farm,
    IdempotencyConflictProblem,
    InvalidRequestProblem,
    NotFoundProblem,
    PermissionProblem,
    RateLimitProblem,
)
from diffusion_farm.problems import problem_of
from scheduler.api.problem_kinds import KINDS
from storage.jobs.jobs import Jobs
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("client") / "home") as stage:
        yield stage


@pytest.fixture
def idle(stage: Stage) -> Iterator[Stage]:
    stage.working.clear()
    yield stage
    stage.working.set()
    stage.changed.set()


@pytest.fixture
def farm(stage: Stage) -> Farm:
    return stage.farm()


@pytest.mark.usefixtures("idle")
def test_a_render_is_held_released_reprioritised_and_cancelled(farm: Farm) -> None:
    made = farm.submit("a star", n=3)
    assert farm.hold(made).state == farm.get(made).state == "held"
    assert farm.release(made.id).state == "waiting"
    assert farm.reprioritise(made, "bulk").priority == "bulk"
    assert (farm.cancel(made), farm.cancel(made)) == (3, 0)
    with pytest.raises(ConflictProblem, match="its priority stays") as refused:
        farm.reprioritise(made, "interactive")
    assert (refused.value.status, refused.value.code) == (409, "conflict")


def test_failed_pictures_are_retried(idle: Stage, farm: Farm) -> None:
    made = farm.submit("a star")
    assert farm.retry(made) == 0
    jobs: Jobs = idle.services.jobs
    claim = jobs.claim(model="tiny", worker="by hand", limit=1)
    assert claim is not None
    with idle.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET state = 'failed' WHERE render_id = :id", {"id": made.id})
        connection.exec_driver_sql("UPDATE renders SET failed = 1 WHERE id = :id", {"id": made.id})
    assert farm.retry(made) == 1
    assert farm.get(made).failed == 0


def test_renders_are_listed_over_pages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_farm.client._PAGE", 2)
    farm = stage.farm(stage.new_key(owner="lister"))
    made = [farm.submit("a star").id for _ in range(5)]
    assert [render.id for render in farm.renders()] == made[::-1]
    with pytest.raises(InvalidRequestProblem, match="unknown parameter"):
        next(farm.renders(colour="red"))


def test_a_dry_run_a_job_and_the_models(stage: Stage, farm: Farm) -> None:
    told = farm.check(["a star", "a circle"], n=2)
    assert (told["total"], told["models"]) == (4, ["tiny"])
    made = farm.wait(farm.submit("a star"))
    assert farm.job(f"{made.id}-000000")["spec"]["prompt"] == "a star"
    assert [model["id"] for model in farm.models()] == list(stage.services.registry.models)


def test_schedules_come_and_go(farm: Farm) -> None:
    added = farm.schedules.add("night @ 2", cron="0 2 * * *", render={"prompt": "a star"}, timezone="Europe/Paris")
    assert (added["timezone"], added["pictures"]) == ("Europe/Paris", 1)
    assert farm.schedules.get("night @ 2").items() >= added.items()
    assert farm.schedules.all() == [added]
    assert farm.schedules.pause("night @ 2")["paused"]
    assert not farm.schedules.resume("night @ 2")["paused"]
    render_id = farm.schedules.run_now("night @ 2")
    assert render_id is not None
    eventually(lambda: farm.get(render_id).finished, "its picture is made")
    assert [one["render_id"] for one in farm.schedules.history("night @ 2")] == [render_id]
    farm.schedules.remove("night @ 2")
    with pytest.raises(NotFoundProblem, match="no schedule named 'night @ 2'"):
        farm.schedules.get("night @ 2")


def test_a_schedule_is_edited_and_the_agenda_tells_of_it(farm: Farm) -> None:
    farm.schedules.add("weekly", cron="0 2 * * 1", render={"prompt": "a star"})
    edited = farm.schedules.edit("weekly", cron="0 3 * * *", window="01:00-05:00")
    assert (edited["cron"], edited["window"]) == ("0 3 * * *", "01:00-05:00")
    once = farm.schedules.add("once", at="2099-01-01 02:00", render={"prompt": "a star"})
    assert (once["cron"], once["ended"]) == (None, False)
    agenda = farm.schedules.agenda(days=2)
    assert "weekly" in str(agenda)
    assert "once" not in str(agenda)
    for name in ("weekly", "once"):
        farm.schedules.remove(name)


def test_a_render_is_deleted_for_good(farm: Farm) -> None:
    made = farm.submit("a star")
    farm.wait(made, timeout=60)
    farm.delete(made)
    with pytest.raises(NotFoundProblem):
        farm.get(made)
    with pytest.raises(NotFoundProblem):
        farm.delete(made)


def test_errors_are_told_apart_and_name_the_request(stage: Stage, farm: Farm) -> None:
    with pytest.raises(InvalidRequestProblem) as wrong:
        farm.submit("a star", width=65)
    assert (wrong.value.code, wrong.value.errors[0]["field"]) == ("invalid_field", "width")
    assert str(wrong.value.request_id).startswith("req_")
    farm.submit("a star", idempotency_key="once")
    with pytest.raises(IdempotencyConflictProblem):
        farm.submit("a circle", idempotency_key="once")
    with pytest.raises(NotFoundProblem):
        farm.get("nothing")
    with pytest.raises(AuthenticationProblem):
        stage.farm("farm_nobody").get("nothing")
    with pytest.raises(PermissionProblem):
        stage.farm(stage.new_key(queued=1)).submit("a star", n=2)
    hasty = stage.farm(stage.new_key(per_minute=1))
    hasty.submit("a star")
    with pytest.raises(RateLimitProblem) as limited:
        hasty.submit("a star")
    assert (limited.value.retry_after, limited.value.code) == (60, "rate_limit_exceeded")


def test_every_kind_of_problem_is_an_error_of_its_own_kind() -> None:
    for code, kind in KINDS.items():
        error = problem_of(kind.status, {"code": code.value, "detail": "words"}, {})
        assert (type(error) is not ApiProblem) == (kind.status != 499), code
        assert (error.code, str(error)) == (code, "words")
    other = problem_of(418, ["no problem document"], {"retry-after": "soon"})
    assert (type(other), str(other), other.code, other.retry_after) == (ApiProblem, "HTTP 418", None, None)


def test_every_name_of_the_package_is_there() -> None:
    for name in diffusion_farm.__all__:
        assert inspect.isclass(getattr(diffusion_farm, name))
