"""What was measured of a model is forgotten once its files' contents are others, and kept on machines with copies."""

import os
import shutil
from pathlib import Path

import pytest

from storage.fleet.learned_limits import CallKind, LearnedLimit, LimitReason
from storage.spec import file_marks
from storage.spec.entry_hash import entry_hash
from storage.spec.file_marks import FileMarks, marked
from storage.spec.model_checks import ModelChecks, write_check
from storage.spec.models import DiffusersModel, Weights
from tests.model_checks import a_check
from tests.unit.slot_stage import LearnedInMemory, MemoryInMemory, job
from worker.serving.batch_learner import BatchLearner
from worker.serving.batch_limits import BatchLimits
from worker.serving.checked_limits import CheckedLimits

HERE = "cpu x86_64, threads: 1"
JOB = job(1, steps=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "config.json").write_text('{"a": 1}')
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights of before")
    return folder


def model(folder: Path, **fields: object) -> DiffusersModel:
    return DiffusersModel(kind="diffusers", alias="sd", source=str(folder), **fields)


def replace(folder: Path) -> None:
    """Put other weights of the same length and time in the place of a model's."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    stat = file.stat()
    file.write_bytes(b"weights of later!")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def marks(folder: Path, **fields: object) -> dict[str, str]:
    return dict(file_marks.file_marks(model(folder, **fields)))


def test_copies_have_the_same_marks_and_other_contents_have_others(folder: Path, tmp_path: Path) -> None:
    before = marks(folder)
    assert sorted(before) == [f"part 0 {name}" for name in ("model_index.json", "unet/config.json", *_weights())]
    assert marks(shutil.copytree(folder, tmp_path / "copy")) == before
    replace(folder)
    after = marks(folder)
    assert [name for name in before if before[name] != after[name]] == [f"part 0 {name}" for name in _weights()]


def _weights() -> tuple[str]:
    return ("unet/diffusion_pytorch_model.safetensors",)


def test_of_a_large_file_pieces_are_read_from_its_first_byte_to_its_last(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_marks, "_SMALL", 10)
    monkeypatch.setattr(file_marks, "_PIECES", 3)
    monkeypatch.setattr(file_marks, "_PIECE", 4)
    file = folder / "large.safetensors"
    found = set()
    for place in (None, 0, 3, 50, 99):
        content = bytearray(100)
        if place is not None:
            content[place] = 1
        file.write_bytes(content)
        found.add(marks(folder)["part 0 large.safetensors"])
    assert len(found) == 5


def test_other_parts_count_and_what_is_not_here_does_not(folder: Path, tmp_path: Path) -> None:
    other = Weights(source=str(shutil.copytree(folder / "unet", tmp_path / "vae")))
    assert {name.split(" ")[1] for name in marks(folder, vae=other)} == {"0", "1"}
    assert marks(tmp_path / "nowhere") == {}
    assert file_marks.file_marks(DiffusersModel(kind="diffusers", alias="sd", source="owner/name")) == {}
    assert marked("0123456789abcdef", {}) == "0123456789abcdef"


def test_a_running_process_sees_within_seconds_that_a_file_is_another(folder: Path) -> None:
    now = [0.0]
    known = FileMarks(lambda: now[0])
    before = known.of(model(folder))
    replace(folder)
    assert known.of(model(folder)) == before
    now[0] = 6.0
    assert known.of(model(folder)) != before


def test_checks_of_files_before_do_not_count(folder: Path, tmp_path: Path) -> None:
    file, sd = tmp_path / "models.checks.json", model(folder)
    write_check(file, "sd", a_check(sd, files=marks(folder), multiple=64, remarks=("it is odd",)))
    checks = ModelChecks(file)
    assert (checks.multiple(sd), len(checks.remarks(sd)), checks.of_files_before(sd)) == (64, 1, [])
    replace(folder)
    checks = ModelChecks(file)
    assert (checks.multiple(sd), checks.remarks(sd), len(checks.of_files_before(sd))) == (1, [], 1)


def test_checks_count_on_a_machine_that_has_no_files(folder: Path, tmp_path: Path) -> None:
    file, sd = tmp_path / "models.checks.json", model(folder)
    write_check(file, "sd", a_check(sd, files=marks(folder), multiple=64))
    shutil.rmtree(folder / "unet")
    assert ModelChecks(file).multiple(sd) == 64


def test_a_worker_starts_anew_with_other_files(folder: Path, tmp_path: Path) -> None:
    file, kept = tmp_path / "models.checks.json", LearnedInMemory()
    sd, now = model(folder), [0.0]

    def learner() -> BatchLearner:
        checked = CheckedLimits(ModelChecks(file), clock=lambda: 1_000_060.0)
        return BatchLearner(kept, device_name=HERE, checked=checked.of, clock=lambda: now[0])

    entry = marked(entry_hash(sd), marks(folder))
    kind = CallKind(model="sd", entry=entry, width=JOB.spec.width, height=JOB.spec.height, device_name=HERE)
    kept.known[kind] = LearnedLimit(pictures=32, settled=True, age=30.0)
    running = learner()
    assert running.limit(sd, JOB) == (32, LimitReason.LEARNED)

    size = {"width": JOB.spec.width, "height": JOB.spec.height}
    write_check(file, "sd", a_check(sd, files=marks(folder), pictures=5, **size))
    kept.known.clear()
    assert learner().limit(sd, JOB) == (5, LimitReason.LEARNED)

    replace(folder)
    now[0] = 6.0
    for one in (running, learner()):
        assert one.limit(sd, JOB) == (8, LimitReason.DEFAULT)


def test_what_memory_was_learned_to_hold_is_of_the_files_that_were_there(folder: Path) -> None:
    kept, sd, now = MemoryInMemory(), model(folder), [0.0]
    running, other = (BatchLimits(kept, device_name=HERE, clock=lambda: now[0]) for _ in range(2))
    running.exceeded(sd, JOB, 8, frugal=False)
    for one in (running, other):
        assert (one.limit(sd, JOB).pictures, one.limit(sd, JOB).reason) == (4, LimitReason.MEMORY)

    replace(folder)
    now[0] = 6.0
    for one in (running, other, BatchLimits(kept, device_name=HERE)):
        assert (one.limit(sd, JOB).pictures, one.limit(sd, JOB).reason) == (8, LimitReason.DEFAULT)
    edited = model(folder, batch_limit=6)
    assert running.limit(edited, JOB).pictures == 6
    running.exceeded(edited, JOB, 6, frugal=True)
    # How many pictures the entry allows says nothing of what they need.
    assert (running.limit(sd, JOB).pictures, running.limit(sd, JOB).frugal) == (3, True)
