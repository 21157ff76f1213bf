"""Services that are away, as a turn sees them: a call returns once the service is back."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from storage.database.connection import Database
from storage.errors import NotFound, ObjectStoreOverwrites, ServiceProblem
from storage.fleet.fault_log import FaultLog
from storage.fleet.learned_limits import CallKind, LearnedLimit, LearnedLimits
from storage.fleet.memory_limits import Load, MemoryLimit, MemoryLimits
from storage.jobs.jobs import Jobs
from storage.jobs.values import Claim, Published, RenderedBatch, Submission
from storage.objects.folder import LocalObjects
from storage.objects.object_keys import Stored
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from storage.settings import Settings
from storage.spec.picture import Request
from storage.spec.registry import read_registry
from worker.serving.outages import OutageRetry
from worker.serving.patient import (
    PatientInputs,
    PatientJobs,
    PatientLearnedLimits,
    PatientMemoryLimits,
    PatientObjects,
    PatientQuarantines,
)
from worker.serving.watchdog import Watchdog


class Outage:
    """A file or folder that is not where it should be, until somebody has waited for it once."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._aside = place.with_name(f"{place.name}.aside")
        self.waited_for: list[str] = []
        #: Asked while the service is away.
        self.meanwhile: Callable[[], object] = lambda: None
        self.answer: object = None

    def begin(self) -> None:
        self._place.rename(self._aside)
        # In a file's place a folder, in a folder's place a file: neither can be opened.
        if self._aside.is_file():
            self._place.mkdir()
        else:
            self._place.touch()

    def end(self) -> None:
        if self._place.is_dir():
            self._place.rmdir()
        else:
            self._place.unlink()
        self._aside.rename(self._place)

    def waits_for(self, what: str, problem: ServiceProblem) -> None:
        assert isinstance(problem, ServiceProblem)
        self.waited_for.append(what)
        self.answer = self.meanwhile()
        self.end()

    def waits_no_more(self, what: str) -> None:
        self.waited_for.append(f"{what}, no more")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.serving.outages._FIRST_PAUSE_SECONDS", 0.001)


def waiting_for(outage: Outage) -> OutageRetry:
    return OutageRetry(threading.Event(), outage)


# -- the database ----------------------------------------------------------------------------------------------

LOAD = Load(model="shapes", entry="0123", width=64, height=64, device_name="cpu")
KIND = CallKind(model="shapes", entry="e", width=64, height=64, device_name="d")


def claim(database: Database, retry: OutageRetry, _: Claim) -> object:
    found = PatientJobs(Jobs(database), retry).claim(model="shapes", worker="w", limit=8)
    return found and len(found.jobs)


def complete(database: Database, retry: OutageRetry, held: Claim) -> object:
    batch = RenderedBatch(id="b", worker="w", model="shapes", jobs=held.jobs, recipe={}, render_seconds=1)
    published = [Published(job=job, object=f"renders/{job.id}", sha256="0" * 64, bytes=1) for job in held.jobs]
    return PatientJobs(Jobs(database), retry).complete(batch, published)


def recover(database: Database, retry: OutageRetry, held: Claim) -> object:
    return list(PatientJobs(Jobs(database), retry).recover(held.jobs, Fault.PIPELINE_ERROR, "failed").values())


def look_at_the_queue(database: Database, retry: OutageRetry, _: Claim) -> object:
    return PatientJobs(Jobs(database), retry).best_waiting(["shapes", "other"])


def look_up_quarantines(database: Database, retry: OutageRetry, _: Claim) -> object:
    return PatientQuarantines(FaultLog(database), retry).quarantine_of("w", "shapes")


def look_up_memory_limits(database: Database, retry: OutageRetry, _: Claim) -> object:
    return PatientMemoryLimits(MemoryLimits(database), retry).of(LOAD)


def learn_a_memory_limit(database: Database, retry: OutageRetry, _: Claim) -> object:
    PatientMemoryLimits(MemoryLimits(database), retry).learn(LOAD, MemoryLimit(pictures=4))
    return MemoryLimits(database).of(LOAD)


def look_up_learned_limits(database: Database, retry: OutageRetry, _: Claim) -> object:
    return PatientLearnedLimits(LearnedLimits(database), retry).of(KIND)


def learn_a_limit(database: Database, retry: OutageRetry, _: Claim) -> object:
    PatientLearnedLimits(LearnedLimits(database), retry).learn(KIND, LearnedLimit(pictures=4, settled=True))
    found = LearnedLimits(database).of(KIND)
    return found and found.pictures


@pytest.mark.parametrize(
    ("call", "what", "expected"),
    [
        (claim, "claim jobs", 1),
        (complete, "record pictures", {}),
        (recover, "record what went wrong", [State.QUEUED]),
        (look_at_the_queue, "look at the queue", {"shapes": Priority.NORMAL}),
        (look_up_quarantines, "look up quarantines", None),
        (look_up_memory_limits, "look up memory limits", None),
        (learn_a_memory_limit, "tell memory limits", MemoryLimit(pictures=4)),
        (look_up_learned_limits, "look up learned limits", None),
        (learn_a_limit, "tell learned limits", 4),
    ],
)
def test_a_call_waits_for_the_database_and_returns_its_answer(
    sqlite: str, call: Callable[[Database, OutageRetry, Claim], object], what: str, expected: object
) -> None:
    before = Database(sqlite)
    specs = (read_registry(Settings()).resolve(Request.parse({"prompt": "a red star"}), seed=seed) for seed in (1, 2))
    Jobs(before).submit(specs, Submission(owner="ann", priority=Priority.NORMAL), quanta={"shapes": 8})
    held = Jobs(before).claim(model="shapes", worker="w", limit=1)
    assert held is not None
    before.close()
    outage = Outage(Path(sqlite.removeprefix("sqlite:///")))
    outage.begin()
    database = Database(sqlite)
    try:
        assert call(database, waiting_for(outage), held) == expected
    finally:
        database.close()
    assert outage.waited_for == [what, f"{what}, no more"]


# -- the object store ------------------------------------------------------------------------------------------


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    """A store with one object."""
    objects = LocalObjects(tmp_path / "objects")
    objects.put("inputs/a", b"before")
    return objects


@pytest.fixture
def outage(objects: LocalObjects) -> Outage:
    outage = Outage(Path(objects.shown))
    outage.begin()
    return outage


@pytest.fixture
def impatient() -> Watchdog:
    """A watchdog that takes any silence of the device's for a stall."""
    watchdog = Watchdog(stall_seconds=0)
    watchdog.begin("a batch")
    return watchdog


def test_pictures_are_stored_once_the_store_is_back(objects: LocalObjects, outage: Outage) -> None:
    PatientObjects(objects, waiting_for(outage)).put("renders/a", b"picture", wanted=lambda: True)
    assert objects.get("renders/a") == b"picture"
    assert outage.waited_for == ["store pictures", "store pictures, no more"]


def test_what_is_no_longer_wanted_once_the_store_is_back_is_not_stored(objects: LocalObjects, outage: Outage) -> None:
    store = PatientObjects(objects, waiting_for(outage))
    assert store.put("renders/a", b"picture", wanted=lambda: not outage.waited_for) is None
    assert list(objects.list("renders/")) == []


class Overwriting(LocalObjects):
    """A store that keeps what was written last, as one that ignores conditional writes does."""

    def put(self, key: str, data: bytes | IO[bytes]) -> Stored:
        self.delete(key)
        return super().put(key, data)


def test_no_picture_is_written_to_a_store_that_overwrites(tmp_path: Path) -> None:
    objects, stopping = Overwriting(tmp_path / "objects"), threading.Event()
    stopping.set()
    with pytest.raises(ObjectStoreOverwrites, match="the store ignores `If-None-Match"):
        PatientObjects(objects, OutageRetry(stopping)).put("renders/a", b"picture", wanted=lambda: True)
    assert list(objects.list()) == []


def test_pictures_are_removed_once_the_store_is_back(objects: LocalObjects, outage: Outage) -> None:
    PatientObjects(objects, waiting_for(outage)).delete("inputs/a")
    assert list(objects.list()) == []
    assert outage.waited_for == ["remove a picture", "remove a picture, no more"]


def test_a_device_that_waits_for_an_input_is_not_stalled(
    objects: LocalObjects, outage: Outage, impatient: Watchdog
) -> None:
    outage.meanwhile = impatient.stalled
    assert PatientInputs(objects, waiting_for(outage), impatient).get("inputs/a") == b"before"
    assert outage.answer is False
    assert impatient.stalled()


def test_a_device_that_hangs_while_pictures_are_stored_is_stalled(
    objects: LocalObjects, outage: Outage, impatient: Watchdog
) -> None:
    outage.meanwhile = impatient.stalled
    PatientObjects(objects, waiting_for(outage)).put("renders/a", b"picture", wanted=lambda: True)
    assert outage.answer is True


def test_an_input_that_is_not_there_is_not_waited_for(objects: LocalObjects, impatient: Watchdog) -> None:
    retry = OutageRetry(threading.Event())
    with pytest.raises(NotFound):
        PatientInputs(objects, retry, impatient).get("inputs/b")
