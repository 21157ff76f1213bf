"""Uploads: inputs that callers bring, each counted against the key that brought it, and kept while it is used.

A row comes before its object: what is in the store without one was left by an earlier version. Whoever notes an upload
as stored, used or being deleted holds its lock, so that none is deleted that somebody has just named. No lock is held
while an object is deleted, for the store may hang: the upload is marked, then its object goes, then its rows. While it
is marked it counts as missing, and whoever stores it again waits.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import IO

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, text, update

from storage.access.keys import Limits
from storage.access.quotas import accept_alone
from storage.database.connection import Database, database_now, transaction
from storage.database.tables import api_files, uploads
from storage.database.upsert import insert_on_conflict
from storage.errors import NotPermitted, ObjectStoreProblem, QuotaExceeded
from storage.objects.inputs import copy_input, delete_input, has_input, put_input_file, reference_of_file
from storage.objects.store import ObjectStore

#: An upload whose last use was noted so recently is not noted again: far below what a purge spares.
_NOTED_SECONDS = 3600.0
#: After so long a purge may have made room.
_RETRY_SECONDS = 3600
#: Databases take only so many values in a statement.
_AT_ONCE = 500
#: A mark outlives its process by so much; the store's client gives up a deletion well before.
_MARKED_SECONDS = 180.0
#: Whoever was stopped for so long after marking does not begin to delete.
_FRESH_SECONDS = 30.0
#: How long whoever stores an upload again waits for its deletion.
_REMOVAL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Uploader:
    """Whose upload it is, and what their key allows."""

    owner: str
    #: None: at the command line, and where no key is needed.
    key_id: str | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class OldUpload:
    """An upload that was neither stored nor named for a while."""

    reference: str
    bytes: int
    #: Everybody who stored it; empty: an earlier version did.
    owners: tuple[str, ...]


class Uploads:
    """Storing inputs, looking them up, and deleting them."""

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self.database = database
        self.objects = objects

    def keep(self, file: IO[bytes], uploader: Uploader) -> str:
        """Store an input from a file, read piece by piece; its reference. Idempotent.

        Raises QuotaExceeded where the key's limits leave no room for it, NotPermitted where they never will,
        ObjectStoreProblem while it is being deleted and the store does not answer.
        """
        reference, n_bytes = reference_of_file(file)
        deadline = time.monotonic() + _REMOVAL_SECONDS
        while not self._note(reference, n_bytes, uploader):
            if time.monotonic() > deadline:
                raise ObjectStoreProblem(
                    f"{reference} is being purged, and the object store does not answer; upload it again when it does"
                )
            time.sleep(0.05)
        put_input_file(self.objects, file)
        return reference

    def has(self, reference: str) -> bool:
        """Return whether an input is stored; one that is will be for a day, so that it can be named now."""
        return self._note_use(reference) and has_input(self.objects, reference)

    def copy(self, reference: str, file: IO[bytes]) -> None:
        """Copy an input into an empty file, and leave that at its beginning; it counts as used. Raises NotFound."""
        self._note_use(reference)
        copy_input(self.objects, reference, file)

    def unused(self, *, seconds: float, owner: str | None = None) -> list[OldUpload]:
        """List what was neither stored nor named for so long; only what is this owner's alone, if one is given."""
        used_at = func.max(uploads.c.used_at)
        statement = (
            select(uploads.c.object, func.max(uploads.c.bytes).label("bytes"))
            .group_by(uploads.c.object)
            .having(used_at <= database_now() - seconds)
            .order_by(used_at, uploads.c.object)
        )
        with self.database.read() as connection:
            found = connection.execute(statement).all()
            owners: dict[str, set[str]] = {row.object: set() for row in found}
            for row in connection.execute(select(uploads.c.object, uploads.c.owner)):
                if row.object in owners:
                    owners[row.object].add(row.owner)
        return [
            OldUpload(reference=row.object, bytes=row.bytes, owners=tuple(sorted(owners[row.object] - {""})))
            for row in found
            if owner is None or owners[row.object] == {owner}
        ]

    def delete_unused(self, reference: str, *, seconds: float) -> bool:
        """Delete an upload, object and rows, and the files of OpenAI's API that it is; False if it was used since.

        Raises DatabaseProblem, ObjectStoreProblem; interrupted, it is done again by a purge after the mark's time.
        """
        begun = time.monotonic()
        marked_until = self._mark(reference, seconds)
        if marked_until is None or time.monotonic() - begun > _FRESH_SECONDS:
            return False
        delete_input(self.objects, reference)
        self._forget(reference, marked_until)
        return True

    @transaction
    def _mark(self, connection: Connection, reference: str, seconds: float) -> float | None:
        """Mark an upload as being deleted, and return until when; None if it was used since, or is marked already."""
        _lock(connection, reference)
        this = uploads.c.object == reference
        kept = select(uploads.c.object).where(this, or_(uploads.c.used_at > database_now() - seconds, ~_unmarked()))
        if connection.execute(kept.limit(1)).first() is not None:
            return None
        # One value for all of its rows: a clock read for each would differ.
        marked_until = connection.execute(select(database_now() + _MARKED_SECONDS)).scalar_one()
        marked = connection.execute(update(uploads).where(this).values(marked_until=marked_until))
        return marked_until if marked.rowcount else None

    @transaction
    def _forget(self, connection: Connection, reference: str, marked_until: float) -> None:
        """Delete the rows of an upload, but for those that were stored since the mark ran out."""
        _lock(connection, reference)
        this = uploads.c.object == reference
        connection.execute(delete(uploads).where(this, uploads.c.marked_until == marked_until))
        if connection.execute(select(uploads.c.object).where(this).limit(1)).first() is None:
            connection.execute(delete(api_files).where(api_files.c.object == reference))

    def adopt(self, references: Iterable[str]) -> int:
        """Note stored inputs of which nothing is known as used now; how many they were."""
        adopted, left = 0, list(references)
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            adopted += self._adopt(some)
        return adopted

    @transaction
    def _adopt(self, connection: Connection, references: Collection[str]) -> int:
        known = set(connection.execute(select(uploads.c.object).where(uploads.c.object.in_(references))).scalars())
        unknown = [reference for reference in references if reference not in known]
        for reference in unknown:
            # Their size is known to the store alone.
            _insert(connection, reference, 0, Uploader(owner=""))
        return len(unknown)

    @transaction
    def _note(self, connection: Connection, reference: str, n_bytes: int, uploader: Uploader) -> bool:
        """Note an upload as stored; False while it is being deleted."""
        if uploader.key_id is not None:
            accept_alone(connection, uploader.key_id, uploader.limits)
            _keep_to_limits(connection, reference, n_bytes, uploader)
        _lock(connection, reference)
        if _is_marked(connection, reference):
            return False
        _insert(connection, reference, n_bytes, uploader)
        return True

    def _note_use(self, reference: str) -> bool:
        """Note an upload as used; False if it is being deleted."""
        stale = (uploads.c.object == reference) & (uploads.c.used_at < database_now() - _NOTED_SECONDS)
        with self.database.read() as connection:
            if connection.execute(select(uploads.c.object).where(stale)).first() is None:
                return True
        return self._touch(reference)

    @transaction
    def _touch(self, connection: Connection, reference: str) -> bool:
        _lock(connection, reference)
        if _is_marked(connection, reference):
            return False
        connection.execute(update(uploads).where(uploads.c.object == reference).values(used_at=database_now()))
        return True


def _insert(connection: Connection, reference: str, n_bytes: int, uploader: Uploader) -> None:
    noted = insert_on_conflict(connection, uploads).values(
        object=reference,
        key_id=uploader.key_id or "",
        owner=uploader.owner,
        bytes=n_bytes,
        used_at=database_now(),
    )
    connection.execute(
        noted.on_conflict_do_update(
            index_elements=[uploads.c.object, uploads.c.key_id, uploads.c.owner],
            set_={"used_at": noted.excluded.used_at, "marked_until": None},
        )
    )


def _unmarked() -> ColumnElement[bool]:
    return or_(uploads.c.marked_until.is_(None), uploads.c.marked_until < database_now())


def _is_marked(connection: Connection, reference: str) -> bool:
    """Return whether an upload is being deleted."""
    marked = select(uploads.c.object).where(uploads.c.object == reference, ~_unmarked())
    return connection.execute(marked.limit(1)).first() is not None


def _lock(connection: Connection, reference: str) -> None:
    """Have nobody else note anything of this upload until the transaction ends."""
    if connection.dialect.name == "postgresql":  # SQLite's writers follow one another anyway.
        said = {"name": f"upload:{reference}"}
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), said)


def _keep_to_limits(connection: Connection, reference: str, n_bytes: int, uploader: Uploader) -> None:
    limits = uploader.limits
    if limits.uploads is None and limits.upload_bytes is None:
        return
    # What is stored again takes no more room.
    others = (uploads.c.key_id == uploader.key_id) & (uploads.c.object != reference)
    counted = select(func.count().label("n"), func.coalesce(func.sum(uploads.c.bytes), 0).label("bytes"))
    used = connection.execute(counted.where(others)).one()
    for most, more, kept, what in (
        (limits.uploads, 1, used.n, "uploads"),
        (limits.upload_bytes, n_bytes, int(used.bytes), "bytes of uploads"),
    ):
        if most is None or kept + more <= most:
            continue
        if more > most:
            raise NotPermitted(f"this key may keep {most} {what}, and this one alone has {more}")
        raise QuotaExceeded(
            f"this key may keep {most} {what} and has {kept}; what no render, schedule or batch names any more makes "
            "room when the farm is purged",
            retry_seconds=_RETRY_SECONDS,
        )
