"""Exports that were started: whoever deletes pictures asks here which are still needed."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update

from storage.database.connection import Database, database_now
from storage.database.export_tables import exports
from storage.database.tables import renders
from storage.database.upsert import insert_on_conflict
from storage.errors import InvalidInput, NotFound
from storage.jobs.transitions import lock_renders


@dataclass(frozen=True, kw_only=True)
class ExportView:
    id: str
    render_id: str
    format: str
    target: str
    created_at: float
    seen_at: float
    finished_at: float | None


class Exports:
    """Starts, resumes and finishes exports. Every method is idempotent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, *, render_id: str, format: str, target: str, options: Mapping[str, Any]) -> str:  # noqa: A002
        """Start an export, or resume an unfinished one; its id.

        Raises InvalidInput if an unfinished one has other options, NotFound if the render is being deleted.
        """
        said = json.dumps(options, sort_keys=True)
        with self._database.write() as connection:
            lock_renders(connection, [render_id])
            kept = select(renders.c.id).where(renders.c.id == render_id, ~renders.c.purging)
            if connection.execute(kept).first() is None:
                raise NotFound(f"render {render_id} is being deleted")
            now = database_now()
            connection.execute(
                insert_on_conflict(connection, exports)
                .values(
                    id=secrets.token_hex(6),
                    render_id=render_id,
                    format=format,
                    target=target,
                    options=said,
                    created_at=now,
                    seen_at=now,
                )
                .on_conflict_do_nothing()
            )
            this = (exports.c.render_id == render_id) & (exports.c.format == format) & (exports.c.target == target)
            row = connection.execute(select(exports).where(this)).one()
            if row.options != said and row.finished_at is None:
                raise InvalidInput(
                    f"{target} holds an unfinished export of render {render_id} with the options {row.options}; "
                    "resume it with the same options, or choose another target"
                )
            connection.execute(update(exports).where(this).values(options=said, seen_at=now, finished_at=None))
        return str(row.id)

    def seen(self, export_id: str) -> None:
        """Note that an export is still being written."""
        with self._database.write() as connection:
            connection.execute(update(exports).where(exports.c.id == export_id).values(seen_at=database_now()))

    def finish(self, export_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(update(exports).where(exports.c.id == export_id).values(finished_at=database_now()))

    def give_up(self, export_id: str) -> bool:
        """Forget one that was not finished, so that it protects its pictures no longer; whether there was one."""
        unfinished = (exports.c.id == export_id) & exports.c.finished_at.is_(None)
        with self._database.write() as connection:
            return connection.execute(delete(exports).where(unfinished)).rowcount > 0

    def unfinished(self) -> list[ExportView]:
        """List the exports that still need their pictures, oldest first."""
        statement = select(exports).where(exports.c.finished_at.is_(None)).order_by(exports.c.created_at)
        with self._database.read() as connection:
            return [
                ExportView(
                    id=row.id,
                    render_id=row.render_id,
                    format=row.format,
                    target=row.target,
                    created_at=row.created_at,
                    seen_at=row.seen_at,
                    finished_at=row.finished_at,
                )
                for row in connection.execute(statement)
            ]
