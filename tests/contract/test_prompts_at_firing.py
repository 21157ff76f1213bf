"""Prompt files that a schedule reads anew at each firing: what is there then is rendered, or history says why not."""

import os
from pathlib import Path

import boto3
import pytest

from scheduler.cron.stored_orders import KeptSource, store_order
from scheduler.intake import sources
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.sources import opened_at_firing
from storage.database.connection import Database
from storage.errors import InvalidInput
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome, Schedule
from storage.renders.views import Views
from storage.settings import Settings
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, outcomes


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


def add(runner: ByTurns, source: str, *, delimiter: str | None = None) -> Schedule:
    with opened_at_firing(source, runner.settings, delimiter=delimiter) as rows:
        kept = store_order(
            runner.intake,
            Submitter(owner="ann", local_files=True),
            Order(manifest=rows, defaults={"width": 64}),
            Terms(),
            same_seeds=False,
            source=KeptSource(source=source, delimiter=delimiter),
        )
    made = runner.schedules.add(owner="ann", name="nightly", plan=NIGHTLY, order=kept.model_dump(mode="json"))
    with runner.schedules.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE schedules SET decided_to = {TWO_AT_NIGHT - 7200}")
    return runner.schedules.get(made.name, owner="ann")


def night(runner: ByTurns, clock: Clock, n: int) -> None:
    clock.moment = TWO_AT_NIGHT + n * 86_400
    runner.run_once()


def prompts(database: Database, runner: ByTurns, schedule: Schedule) -> list[tuple[str, int]]:
    [firing] = runner.schedules.history(schedule, limit=1)
    return [(job.spec.prompt, job.spec.width) for job in Views(database).jobs(str(firing.render_id))]


def test_the_file_is_read_anew_each_time_and_the_schedule_goes_on_without_it(
    runner: ByTurns, clock: Clock, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "tonight.txt"
    file.write_text("a star\n")
    schedule = add(runner, str(file))
    night(runner, clock, 0)
    assert prompts(database, runner, schedule) == [("a star", 64)]
    file.write_text("a circle\na square\n")
    night(runner, clock, 1)
    assert prompts(database, runner, schedule) == [("a circle", 64), ("a square", 64)]

    file.unlink()
    night(runner, clock, 2)
    file.write_text("a star\n--width 7\n")
    night(runner, clock, 3)
    file.write_text("a star again\n")
    night(runner, clock, 4)

    assert outcomes(runner, schedule)[2:] == [FiringOutcome.FAILED, FiringOutcome.FAILED, FiringOutcome.FIRED]
    notes = [str(one.note) for one in reversed(runner.schedules.history(schedule))]
    assert notes[2] == f"{file}: No such file or directory"
    assert notes[3].startswith(f"{file} line 2")
    assert prompts(database, runner, schedule) == [("a star again", 64)]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "large"])
def test_what_cannot_be_read_is_told_in_one_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    monkeypatch.setattr(sources, "MAX_BYTES", 2 * 2**20)
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "large":
        file.write_bytes(b"a" * (2 * 2**20 + 1))
    says = {
        "missing": "No such file or directory",
        "folder": "Is a directory",
        "pipe": "not a file",
        "large": "larger than 2 MB",
    }
    with pytest.raises(InvalidInput) as refused, opened_at_firing(str(file), Settings()):
        pass
    assert str(refused.value) == f"{file}: {says[kind]}"


def test_a_table_is_read_with_its_delimiter_each_time(
    runner: ByTurns, clock: Clock, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "tonight.csv"
    file.write_text("prompt~width\na star; small~128\n")
    schedule = add(runner, str(file), delimiter="~")
    night(runner, clock, 0)
    assert prompts(database, runner, schedule) == [("a star; small", 128)]


def test_an_object_is_read_anew_each_time(
    runner: ByTurns, clock: Clock, database: Database, s3: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3", endpoint_url=s3.s3_endpoint_url)
    name = str(s3.objects_url).removeprefix("s3://").partition("/")[0]
    runner.settings = s3
    runner.__post_init__()
    address = f"s3://{name}/lists/tonight.txt"

    def put(text: str) -> None:
        client.put_object(Bucket=name, Key="lists/tonight.txt", Body=text.encode())

    put("a star\n")
    schedule = add(runner, address)
    put("a circle\n")
    night(runner, clock, 0)
    assert prompts(database, runner, schedule) == [("a circle", 64)]
    client.delete_object(Bucket=name, Key="lists/tonight.txt")
    night(runner, clock, 1)
    monkeypatch.setattr(sources, "MAX_BYTES", 2**20)
    put("a" * (2**20 + 1))
    night(runner, clock, 2)
    notes = [str(one.note) for one in reversed(runner.schedules.history(schedule))]
    assert outcomes(runner, schedule)[1:] == [FiringOutcome.FAILED] * 2
    assert "lists/tonight.txt" in notes[1]
    assert notes[2] == f"{address}: larger than 1 MB"
    with (
        pytest.raises(InvalidInput, match="s3://nowhere-to-be-found/x.txt: "),
        opened_at_firing("s3://nowhere-to-be-found/x.txt", s3),
    ):
        pass
