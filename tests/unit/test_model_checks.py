"""What was found of models: kept whole in a file beside the registry's, and used as long as the entry is the same."""

import json
import logging
import threading
from pathlib import Path

import pytest

from storage.errors import BadSettings
from storage.fleet.learned_limits import CallKind, LearnedLimit, LimitReason
from storage.settings import Settings
from storage.spec import model_checks
from storage.spec.model_checks import ModelChecks, check_writable, checks_file, write_check
from storage.spec.models import DiffusersModel, SimulatedModel
from storage.spec.registry import read_registry
from tests.model_checks import a_check
from tests.unit.slot_stage import LearnedInMemory, job
from worker.serving.batch_learner import BatchLearner
from worker.serving.checked_limits import CheckedLimits

MODEL = DiffusersModel(kind="diffusers", alias="sd", source="a/b")
HERE = "cpu x86_64, threads: 1"
JOB = job(1, steps=2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.checks.json"


def test_the_file_is_beside_the_registrys(tmp_path: Path) -> None:
    assert checks_file(Settings(home=tmp_path)) == tmp_path / "models.checks.json"
    other = Settings(home=tmp_path, models_file=tmp_path / "etc" / "farm.toml")
    assert checks_file(other) == tmp_path / "etc" / "farm.checks.json"


def test_what_is_found_of_one_model_and_device_replaces_nothing_else(file: Path) -> None:
    other = SimulatedModel(kind="simulated", alias="other")
    write_check(file, "sd", a_check(MODEL, pictures=4))
    write_check(file, "other", a_check(other))
    write_check(file, "sd", a_check(MODEL, device_name="NVIDIA H200", pictures=32))
    write_check(file, "sd", a_check(MODEL, pictures=8))
    checks = ModelChecks(file)
    assert {check.device_name: check.pictures for check in checks.of(MODEL)} == {HERE: 8, "NVIDIA H200": 32}
    assert len(checks.of(other)) == 1
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_checks_that_end_at_once_are_all_written(file: Path) -> None:
    threads = [
        threading.Thread(target=write_check, args=(file, "sd", a_check(MODEL, device_name=f"device {n}")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ModelChecks(file).of(MODEL)) == 8


def test_a_write_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_check(file, "sd", a_check(MODEL, pictures=4))
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadSettings, match="cannot be written .No space left on device"):
        write_check(file, "sd", a_check(MODEL, pictures=8))
    assert file.read_bytes() == before
    assert [one.name for one in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 9, "checks": {}}', '{"version": 1, "checks": {"sd": 1}}']
)
def test_a_damaged_file_is_ignored_with_a_word(file: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert ModelChecks(file).of(MODEL) == []
    assert "cannot be read, and is ignored" in caplog.text
    write_check(file, "sd", a_check(MODEL))
    assert len(ModelChecks(file).of(MODEL)) == 1


def test_a_running_process_sees_a_new_check(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = ModelChecks(file)
    assert checks.remarks(MODEL) == []
    write_check(file, "sd", a_check(MODEL, remarks=("it is odd",)))
    monkeypatch.setattr(model_checks, "_FRESH_SECONDS", -1.0)
    assert checks.remarks(MODEL) == [f"model: it is odd (`farm models check sd` found it on {HERE})"]


def test_what_was_found_of_another_entry_does_not_count(file: Path) -> None:
    write_check(file, "sd", a_check(MODEL, multiple=64, remarks=("it is odd",)))
    checks = ModelChecks(file)
    same = MODEL.model_copy(update={"num_inference_steps": 7, "batch_limit": 3})
    other = MODEL.model_copy(update={"dtype": "bfloat16"})
    assert (checks.multiple(same), len(checks.remarks(same))) == (64, 1)
    assert (checks.multiple(other), checks.remarks(other)) == (1, [])


def test_the_registry_knows_of_checks(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    shapes = read_registry(settings)["shapes"]
    write_check(checks_file(settings), "shapes", a_check(shapes))
    registry = read_registry(settings)
    assert registry.checks is not None
    assert len(registry.checks.of(registry["shapes"])) == 1


def test_where_nothing_may_be_written_that_is_said_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "models.checks.json")
    with pytest.raises(BadSettings, match="would be written to .* may not write there"):
        check_writable(tmp_path / "nowhere" / "models.checks.json")


class TestWorkers:
    """A worker begins with what was found, as if one of its kind had learned it."""

    def learner(
        self, file: Path, *, now: float = 1_000_060.0, **learned: LearnedLimit
    ) -> tuple[BatchLearner, CallKind]:
        kept = LearnedInMemory()
        checked = CheckedLimits(ModelChecks(file), clock=lambda: now)
        learner = BatchLearner(kept, device_name=HERE, checked=checked.of)
        kind = CallKind(model="sd", entry=a_check(MODEL).entry, width=8, height=8, device_name=HERE)
        for limit in learned.values():
            kept.known[kind] = limit
        return learner, kind

    def test_the_number_is_used_and_not_looked_for_again_for_a_day(self, file: Path) -> None:
        write_check(file, "sd", a_check(MODEL, pictures=5, width=8, height=8))
        learner, _ = self.learner(file)
        assert learner.limit(MODEL, JOB) == (5, LimitReason.LEARNED)
        assert not learner.is_searching(MODEL, JOB)
        learner, _ = self.learner(file, now=1_000_000.0 + 2 * 86400)
        assert learner.limit(MODEL, JOB) == (5, LimitReason.LEARNED)
        assert learner.is_searching(MODEL, JOB)

    def test_what_is_younger_counts(self, file: Path) -> None:
        write_check(file, "sd", a_check(MODEL, pictures=5, width=8, height=8))
        learner, _ = self.learner(file, learned=LearnedLimit(pictures=32, settled=True, age=30.0))
        assert learner.limit(MODEL, JOB)[0] == 32
        learner, _ = self.learner(file, learned=LearnedLimit(pictures=32, settled=True, age=90.0))
        assert learner.limit(MODEL, JOB)[0] == 5

    @pytest.mark.parametrize("found", [{"pictures": None}, {"width": 16}, {"device_name": "other"}, {"entry": "other"}])
    def test_what_was_found_elsewhere_is_no_limit(self, file: Path, found: dict[str, object]) -> None:
        write_check(file, "sd", a_check(MODEL, **({"pictures": 5, "width": 8, "height": 8} | found)))
        learner, _ = self.learner(file)
        assert learner.limit(MODEL, JOB) == (8, LimitReason.DEFAULT)

    def test_without_a_file_nothing_is_known(self) -> None:
        kind = CallKind(model="sd", entry="", width=8, height=8, device_name=HERE)
        assert CheckedLimits(None).of(kind) is None


def test_the_file_is_readable_json(file: Path) -> None:
    write_check(file, "sd", a_check(MODEL))
    assert json.loads(file.read_text())["checks"]["sd"][HERE]["findings"][0]["check"] == "seed"
