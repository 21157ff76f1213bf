"""Files and batches of OpenAI's Batch API: a batch is a render, each line of its file some of its pictures."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import api_batches, api_files
from storage.database.upsert import insert_on_conflict
from storage.errors import NotFound


@dataclass(frozen=True, kw_only=True)
class OpenAIFile:
    id: str
    owner: str
    name: str
    purpose: str
    bytes: int
    object: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a batch's file, and which pictures belong to it."""

    custom_id: str
    first: int
    n: int
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class OpenAIBatch:
    id: str
    owner: str
    file_id: str
    render_id: str
    metadata: Mapping[str, str]
    lines: Sequence[Line]
    created_at: float


class OpenAIFiles:
    """Files that were uploaded for batches, and the batches."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @transaction
    def add_file(
        self, connection: Connection, *, owner: str, name: str, purpose: str, n_bytes: int, reference: str
    ) -> OpenAIFile:
        row = {
            "id": f"file-{secrets.token_hex(12)}",
            "owner": owner,
            "name": name[:200],
            "purpose": purpose,
            "bytes": n_bytes,
            "object": reference,
        }
        connection.execute(insert(api_files).values(created_at=database_now(), **row))
        return _file(connection.execute(select(api_files).where(api_files.c.id == row["id"])).one())

    def file(self, owner: str | None, file_id: str) -> OpenAIFile:
        """Return a file. Raises NotFound, also for another owner's."""
        with self.database.ask() as connection:
            row = connection.execute(select(api_files).where(api_files.c.id == file_id)).first()
        if row is None or owner not in (None, row.owner):
            raise NotFound(f"no file with id {file_id[:60]!r}")
        return _file(row)

    @transaction
    def add_batch(
        self,
        connection: Connection,
        *,
        owner: str,
        file_id: str,
        render_id: str,
        metadata: Mapping[str, str],
        lines: Sequence[Line],
    ) -> OpenAIBatch:
        """Make a render a batch. Idempotent: a render is one batch, whose id follows from the render's."""
        batch_id = f"batch_{hashlib.sha256(render_id.encode()).hexdigest()[:24]}"
        connection.execute(
            insert_on_conflict(connection, api_batches)
            .values(
                id=batch_id,
                owner=owner,
                file_id=file_id,
                render_id=render_id,
                metadata=json.dumps(dict(metadata)),
                lines=json.dumps([[line.custom_id, line.first, line.n, line.body] for line in lines]),
                created_at=database_now(),
            )
            .on_conflict_do_nothing()
        )
        return _batch(connection.execute(select(api_batches).where(api_batches.c.id == batch_id)).one())

    def batch(self, owner: str | None, batch_id: str) -> OpenAIBatch:
        """Return a batch. Raises NotFound, also for another owner's."""
        with self.database.read() as connection:
            row = connection.execute(select(api_batches).where(api_batches.c.id == batch_id)).first()
        if row is None or owner not in (None, row.owner):
            raise NotFound(f"no batch with id {batch_id[:60]!r}")
        return _batch(row)

    def batches(self, owner: str | None, *, limit: int, after: str | None = None) -> list[OpenAIBatch]:
        """List the newest batches, newest first, or those after one. Raises NotFound for that one."""
        statement = select(api_batches).order_by(api_batches.c.created_at.desc(), api_batches.c.id).limit(limit)
        if owner is not None:
            statement = statement.where(api_batches.c.owner == owner)
        if after is not None:
            statement = statement.where(api_batches.c.created_at < self.batch(owner, after).created_at)
        with self.database.read() as connection:
            return [_batch(row) for row in connection.execute(statement)]


def _file(row: Row[Any]) -> OpenAIFile:
    return OpenAIFile(**row._asdict())


def _batch(row: Row[Any]) -> OpenAIBatch:
    lines = [
        Line(custom_id=custom_id, first=first, n=n, body=body) for custom_id, first, n, body in json.loads(row.lines)
    ]
    return OpenAIBatch(
        id=row.id,
        owner=row.owner,
        file_id=row.file_id,
        render_id=row.render_id,
        metadata=json.loads(row.metadata),
        lines=lines,
        created_at=row.created_at,
    )
