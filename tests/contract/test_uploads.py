"""Uploads: they count against the key that brought them, and go when nothing names them any more."""

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import pytest
from sqlalchemy import func, select, update

from scheduler.intake.manifests import manifest
from scheduler.intake.order import Order
from scheduler.results.purge import UploadPurge
from storage.access.keys import Limits
from storage.access.uploads import Uploader, Uploads
from storage.database.connection import Database
from storage.database.tables import api_files, uploads
from storage.errors import NotPermitted, ObjectStoreProblem, QuotaExceeded
from storage.jobs.jobs import Jobs
from storage.objects.inputs import has_input, put_input
from storage.objects.store import ObjectStore
from storage.renders.openai_files import OpenAIFiles
from tests.contract.renders import at_once, claim, complete, pictures, submit
from tests.contract.schedules import ByTurns, add

DAY = 86_400.0
ANN = Uploader(owner="ann")


@pytest.fixture
def kept(database: Database, objects: ObjectStore) -> Uploads:
    return Uploads(database, objects)


def keep(kept: Uploads, data: bytes, uploader: Uploader = ANN) -> str:
    return kept.keep(io.BytesIO(data), uploader)


def limited(limits: Limits, key_id: str = "a key") -> Uploader:
    return Uploader(owner="ann", key_id=key_id, limits=limits)


def aged(database: Database, seconds: float) -> None:
    """As if every upload had been stored, or used, so long ago."""
    with database.write() as connection:
        connection.execute(update(uploads).values(used_at=uploads.c.used_at - seconds))


def purge(kept: Uploads, *, seconds: float = 30 * DAY, owner: str | None = None) -> list[str]:
    return UploadPurge(uploads=kept, seconds=seconds, owner=owner).run()


# -- limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(uploads=2), "may keep 2 uploads and has 2"),
        (Limits(upload_bytes=9), "may keep 9 bytes of uploads and has 8"),
    ],
)
def test_a_key_keeps_so_many_uploads_until_some_are_purged(
    kept: Uploads, database: Database, limits: Limits, words: str
) -> None:
    for _ in range(2):  # equal bytes are one upload
        keep(kept, b"1234", limited(limits))
        keep(kept, b"5678", limited(limits))
    with pytest.raises(QuotaExceeded, match=words):
        keep(kept, b"more", limited(limits))
    # Another key has its own.
    keep(kept, b"more", limited(limits, "another"))
    aged(database, 31 * DAY)
    assert len(purge(kept)) == 3
    keep(kept, b"more", limited(limits))


def test_an_upload_that_never_fits_is_said_so_and_not_stored(kept: Uploads) -> None:
    with pytest.raises(NotPermitted, match="may keep 3 bytes of uploads, and this one alone has 4"):
        keep(kept, b"1234", limited(Limits(upload_bytes=3)))
    assert list(kept.objects.list()) == []


def test_of_uploads_at_the_same_moment_as_many_are_stored_as_the_limit_allows(kept: Uploads) -> None:
    def tried(n: int) -> str:
        try:
            return keep(kept, f"upload {n}".encode(), limited(Limits(uploads=5)))
        except QuotaExceeded:
            return "refused"

    found = at_once(*[partial(tried, n) for n in range(12)])
    assert found.count("refused") == 7
    assert len(list(kept.objects.list("inputs/"))) == 5


# -- what stays ------------------------------------------------------------------------------------------------


def test_what_nothing_names_goes_after_a_while_with_its_rows(kept: Uploads, database: Database) -> None:
    old = keep(kept, b"old")
    OpenAIFiles(database).add_file(owner="ann", name="a", purpose="input", n_bytes=3, reference=old)
    aged(database, 30 * DAY + 5)
    young = keep(kept, b"young")
    aged(database, 30 * DAY - 10)

    assert purge(kept) == [old]

    assert not has_input(kept.objects, old)
    assert has_input(kept.objects, young)
    with database.read() as connection:
        assert connection.execute(select(uploads.c.object)).scalars().all() == [young]
        assert connection.execute(select(func.count()).select_from(api_files)).scalar_one() == 0


def test_nothing_goes_within_a_day(kept: Uploads, database: Database) -> None:
    keep(kept, b"just now")
    aged(database, DAY - 5)
    assert purge(kept, seconds=0) == []
    aged(database, 10)
    assert len(purge(kept, seconds=0)) == 1


@pytest.mark.parametrize("objects", ["local"], indirect=True)
@pytest.mark.parametrize("field", ["control_images", "prompt_embeds"])
@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_what_a_job_names_stays_whatever_became_of_the_job(
    farm: Jobs, kept: Uploads, database: Database, field: str, state: str
) -> None:
    named = keep(kept, b"named")
    value: Any = (named,) if field == "control_images" else named
    words = {"prompt": ""} if field == "prompt_embeds" else {}
    render_id = submit(farm, pictures(2, **{field: value}, **words))
    if state != "queued":
        claimed = claim(farm)
        if state == "done":
            complete(farm, claimed)
    aged(database, 31 * DAY)
    unneeded = UploadPurge(uploads=kept, seconds=30 * DAY).unneeded
    assert list(unneeded()) == []
    assert purge(kept) == []
    # As if its render was deleted.
    assert [one.reference for one in unneeded(without={render_id})] == [named]


def test_what_a_schedule_and_its_rows_name_stays_until_it_is_removed(
    runner: ByTurns, kept: Uploads, database: Database, tmp_path: Any
) -> None:
    named = keep(kept, b"named")
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "a", "topic": "{named}"}}\n')
    schedule = add(runner, order=Order(manifest=manifest(tmp_path / "rows.jsonl")))
    aged(database, 31 * DAY)
    assert purge(kept) == []
    runner.schedules.remove(schedule)
    assert len(purge(kept)) == 2, "the rows, too"


def test_the_file_of_a_batch_stays_with_it(farm: Jobs, kept: Uploads, database: Database) -> None:
    files, lines = OpenAIFiles(database), keep(kept, b"lines")
    file = files.add_file(owner="ann", name="a", purpose="batch", n_bytes=5, reference=lines)
    render_id = submit(farm, pictures(1))
    files.add_batch(owner="ann", file_id=file.id, render_id=render_id, metadata={}, lines=[])
    aged(database, 31 * DAY)
    assert purge(kept) == []
    assert files.file("ann", file.id).object == lines
    assert [one.reference for one in UploadPurge(uploads=kept, seconds=0).unneeded(without={render_id})] == [lines]


def test_what_was_looked_up_stays_for_a_day_to_be_named(kept: Uploads, database: Database) -> None:
    asked, copied, other = (keep(kept, data) for data in (b"asked", b"copied", b"other"))
    aged(database, 31 * DAY)
    assert kept.has(asked)
    kept.copy(copied, io.BytesIO())
    assert purge(kept, seconds=0) == [other]


def test_what_an_earlier_version_stored_is_judged_from_the_first_purge_on(kept: Uploads, database: Database) -> None:
    reference = put_input(kept.objects, b"before")
    kept.objects.put("inputs/strange", b"no input of ours")
    assert purge(kept, seconds=0) == []
    aged(database, 2 * DAY)
    assert purge(kept, seconds=0) == [reference]
    assert list(kept.objects.list()) == ["inputs/strange"]


def test_of_one_owner_goes_what_is_theirs_alone(kept: Uploads, database: Database) -> None:
    keep(kept, b"of both")
    keep(kept, b"of both", Uploader(owner="bob", key_id="b"))
    anns = keep(kept, b"ann's")
    keep(kept, b"bob's", Uploader(owner="bob"))
    put_input(kept.objects, b"nobody's")
    purge(kept)
    aged(database, 31 * DAY)
    found = UploadPurge(uploads=kept, seconds=0).unneeded()
    assert sorted(one.owners for one in found) == [(), ("ann",), ("ann", "bob"), ("bob",)]
    assert purge(kept, owner="ann") == [anns]


# -- at the same moment ----------------------------------------------------------------------------------------


@dataclass
class Interrupted:
    """A store in which somebody does something else while an object is being deleted."""

    there: ObjectStore
    meanwhile: threading.Thread
    #: Whoever waits for the purge is not done before it is; whoever does not has every opportunity to be.
    seconds: float = 0.5
    error: BaseException | None = None

    @property
    def shown(self) -> str:
        return self.there.shown

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.there.list(prefix)

    def copy(self, key: str, file: IO[bytes]) -> None:
        self.there.copy(key, file)

    def delete(self, key: str) -> None:
        self.meanwhile.start()
        self.meanwhile.join(self.seconds)
        if self.error is not None:
            raise self.error
        self.there.delete(key)


@pytest.mark.parametrize("key_id", [None, "another"])
def test_what_is_stored_again_while_it_is_being_deleted_is_there_afterwards(
    kept: Uploads, database: Database, key_id: str | None
) -> None:
    reference = keep(kept, b"again")
    aged(database, 31 * DAY)
    uploader = Uploader(owner="ann", key_id=key_id)
    thread = threading.Thread(target=kept.keep, args=(io.BytesIO(b"again"), uploader))
    interrupted: Any = Interrupted(kept.objects, thread)
    assert purge(Uploads(database, interrupted)) == [reference]
    thread.join()
    assert kept.has(reference)
    aged(database, 31 * DAY)
    assert purge(kept) == [reference], "it has its row, too"


def test_what_is_looked_up_while_it_is_being_deleted_is_said_to_be_missing(kept: Uploads, database: Database) -> None:
    reference = keep(kept, b"late")
    aged(database, 31 * DAY)
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(kept.has(reference)))
    interrupted: Any = Interrupted(kept.objects, thread)
    assert purge(Uploads(database, interrupted)) == [reference]
    thread.join()
    assert said == [False]


def test_what_was_used_since_somebody_looked_is_not_deleted(kept: Uploads, database: Database) -> None:
    reference = keep(kept, b"used since")
    aged(database, 31 * DAY)
    [one] = UploadPurge(uploads=kept, seconds=DAY).unneeded()
    assert kept.has(reference)
    assert not kept.delete_unused(one.reference, seconds=DAY)
    assert kept.has(reference)


def test_nobody_waits_for_a_store_that_is_slow_to_delete(kept: Uploads, database: Database) -> None:
    reference = keep(kept, b"slow to go")
    aged(database, 31 * DAY)
    others: list[str] = []
    thread = threading.Thread(target=lambda: others.append(keep(kept, b"another")))
    interrupted: Any = Interrupted(kept.objects, thread, seconds=30)
    assert purge(Uploads(database, interrupted)) == [reference]
    assert len(others) == 1, "stored while the object was being deleted"


def test_a_purge_that_was_killed_while_it_deleted_is_finished_by_a_later_one(
    kept: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = keep(kept, b"half gone")
    aged(database, 31 * DAY)
    killed = threading.Thread(target=lambda: None)
    interrupted: Any = Interrupted(kept.objects, killed, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        purge(Uploads(database, interrupted))
    # Until its mark has run out it counts as missing, and nobody can store it.
    assert not kept.has(reference)
    assert purge(kept) == []
    monkeypatch.setattr("storage.access.uploads._REMOVAL_SECONDS", 0.2)
    with pytest.raises(ObjectStoreProblem, match="is being purged, and the object store does not answer"):
        keep(kept, b"half gone")
    with database.write() as connection:
        connection.execute(update(uploads).values(marked_until=uploads.c.marked_until - 200))
    assert purge(kept) == [reference]
    assert keep(kept, b"half gone") == reference
    assert kept.has(reference)


def test_rows_written_after_the_mark_of_a_purge_ran_out_stay(
    kept: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = keep(kept, b"stored again")
    keep(kept, b"stored again", Uploader(owner="bob"))
    aged(database, 31 * DAY)
    monkeypatch.setattr("storage.access.uploads._MARKED_SECONDS", -1.0)
    thread = threading.Thread(target=lambda: keep(kept, b"stored again"))
    interrupted: Any = Interrupted(kept.objects, thread, seconds=30)
    assert purge(Uploads(database, interrupted)) == [reference]
    with database.read() as connection:
        assert connection.execute(select(uploads.c.object, uploads.c.owner)).all() == [(reference, "ann")]
