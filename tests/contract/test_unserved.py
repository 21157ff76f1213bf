"""A model that no worker serves is accepted with a word on that, by every way in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from storage.fleet.workers import NewWorker, Workers
from tests.contract.doors import Clock, CommandLine, Door
from tests.contract.stage import Stage, running_stage
from tests.contract.test_doors_contract import DOORS, named

HTTP = [door for door in DOORS if not isinstance(door, Clock | CommandLine)]
REMARK = "model: no worker serves tiny now, so its pictures wait until one does"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("unserved")
    with running_stage(folder / "home", database_url=f"sqlite:///{folder / 'farm.db'}") as stage:
        yield stage


@pytest.fixture
def served(stage: Stage) -> Iterator[None]:
    worker = NewWorker(name="w", host="h", device="cpu:0", device_name="CPU", pid=1, models=["toy", "tiny"])
    Workers(stage.services.database).announce(worker)
    yield
    Workers(stage.services.database).forget("w")


@named(HTTP)
def test_a_model_that_nobody_serves_gets_a_remark(stage: Stage, door: Door) -> None:
    assert REMARK in door.send(stage, {"prompt": "a star", "model": "tiny"}).remarks


@named(HTTP)
@pytest.mark.usefixtures("served")
def test_a_model_that_a_worker_serves_gets_none(stage: Stage, door: Door) -> None:
    assert REMARK not in door.send(stage, {"prompt": "a star", "model": "tiny"}).remarks


def test_a_dry_run_says_it_too(stage: Stage) -> None:
    told = stage.client().post("/v1/renders", json={"prompt": "a star", "dry_run": True}).json()
    assert told["remarks"] == [REMARK]
    settings = stage.services.settings
    environment = {"FARM_HOME": str(settings.home), "FARM_DATABASE_URL": settings.database}
    result = CliRunner().invoke(cli, ["render", "a star", "--dry-run"], env=environment)
    assert f"{REMARK} (1 picture)" in result.stderr


def test_a_model_whose_folder_is_not_on_the_machine_that_renders_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    models = '[models.own]\nkind = "diffusers"\nsource = "./weights"\npipeline = "StableDiffusionPipeline"\n'
    with running_stage(home, models=models) as alone:
        alone.working.clear()
        refused = alone.client().post("/v1/renders", json={"prompt": "a star"})
        assert refused.status_code == 422
        assert "own needs weights, which is not there" in refused.json()["detail"]
        assert str(home) not in refused.text
        (home / "weights").mkdir()
        assert alone.client().post("/v1/renders", json={"prompt": "a star"}).status_code == 202


def test_nothing_is_said_on_a_machine_whose_workers_start_when_there_is_work(tmp_path: Path) -> None:
    with running_stage(tmp_path / "home") as alone:
        told = alone.client().post("/v1/renders", json={"prompt": "a star", "dry_run": True}).json()
        assert told["remarks"] == []
