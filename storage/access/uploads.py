"""Uploads: inputs that callers bring, each counted against the key that brought it, and kept while it is used.

A row comes before its object: what is in the store without one was left by an earlier version. Whoever stores, uses or
deletes an upload holds its lock meanwhile, so that none is deleted that somebody has just named.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import IO

from sqlalchemy import Connection, delete, func, select, text, update

from storage.access.keys import Limits
from storage.access.quotas import accept_alone
from storage.database.connection import Database, database_now, transaction
from storage.database.tables import api_files, uploads
from storage.database.upsert import insert_on_conflict
from storage.errors import NotPermitted, QuotaExceeded
from storage.objects.inputs import copy_input, delete_input, has_input, put_input_file, reference_of_file
from storage.objects.store import ObjectStore

#: An upload whose last use was noted so recently is not noted again: far below what a purge spares.
_NOTED_SECONDS = 3600.0
#: After so long a purge may have made room.
_RETRY_SECONDS = 3600
#: Databases take only so many values in a statement.
_AT_ONCE = 500


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

        Raises QuotaExceeded where the key's limits leave no room for it, NotPermitted where they never will.
        """
        reference, n_bytes = reference_of_file(file)
        self._note(reference, n_bytes, uploader)
        put_input_file(self.objects, file)
        return reference

    def has(self, reference: str) -> bool:
        """Return whether an input is stored; one that is will be for a day, so that it can be named now."""
        self._note_use(reference)
        return has_input(self.objects, reference)

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

    @transaction
    def delete_unused(self, connection: Connection, reference: str, *, seconds: float) -> bool:
        """Delete an upload, object and rows, and the files of OpenAI's API that it is; False if it was used since.

        The object goes first, under the lock: interrupted, it is done again.
        """
        _lock(connection, reference)
        used_at = select(func.max(uploads.c.used_at)).where(uploads.c.object == reference)
        if not connection.execute(select(used_at.scalar_subquery() <= database_now() - seconds)).scalar_one():
            return False
        delete_input(self.objects, reference)
        connection.execute(delete(uploads).where(uploads.c.object == reference))
        connection.execute(delete(api_files).where(api_files.c.object == reference))
        return True

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
    def _note(self, connection: Connection, reference: str, n_bytes: int, uploader: Uploader) -> None:
        if uploader.key_id is not None:
            accept_alone(connection, uploader.key_id, uploader.limits)
            _keep_to_limits(connection, reference, n_bytes, uploader)
        _lock(connection, reference)
        _insert(connection, reference, n_bytes, uploader)

    def _note_use(self, reference: str) -> None:
        stale = (uploads.c.object == reference) & (uploads.c.used_at < database_now() - _NOTED_SECONDS)
        with self.database.read() as connection:
            if connection.execute(select(uploads.c.object).where(stale)).first() is None:
                return
        self._touch(reference)

    @transaction
    def _touch(self, connection: Connection, reference: str) -> None:
        _lock(connection, reference)
        connection.execute(update(uploads).where(uploads.c.object == reference).values(used_at=database_now()))


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
            set_={"used_at": noted.excluded.used_at},
        )
    )


def _lock(connection: Connection, reference: str) -> None:
    """Have nobody else store, use or delete this upload until the transaction ends."""
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
