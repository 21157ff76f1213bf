"""Which renders a client waits for on an open connection, whichever API process holds it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, select, update

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import renders

#: A process that ends while a client waits leaves its renders marked for so long.
_MARKED_SECONDS = 30.0
_RENEWED_EVERY_SECONDS = 10.0


class Waits:
    """Marks renders while a client waits for them, and finds the marked ones."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def waiting(self, render_id: str) -> Iterator[Callable[[], None]]:
        """Mark a render; what is yielded keeps it marked, called as often as one likes. At the end it is unmarked."""
        self._mark(render_id)
        due = time.monotonic() + _RENEWED_EVERY_SECONDS

        def renew() -> None:
            nonlocal due
            if time.monotonic() >= due:
                self._mark(render_id)
                due = time.monotonic() + _RENEWED_EVERY_SECONDS

        try:
            yield renew
        finally:
            self._unmark(render_id)

    def of(self, owner: str) -> list[str]:
        """Return an owner's unfinished renders that a client waits for, oldest first."""
        theirs = (
            renders.c.owner == owner,
            renders.c.finished_at.is_(None),
            ~renders.c.purging,
            renders.c.waited_until > database_now(),
        )
        with self.database.read() as connection:
            statement = select(renders.c.id).where(*theirs).order_by(renders.c.created_at, renders.c.id)
            return [str(render_id) for render_id in connection.execute(statement).scalars()]

    @transaction
    def _mark(self, connection: Connection, render_id: str) -> None:
        until = database_now() + _MARKED_SECONDS
        connection.execute(update(renders).where(renders.c.id == render_id).values(waited_until=until))

    @transaction
    def _unmark(self, connection: Connection, render_id: str) -> None:
        connection.execute(update(renders).where(renders.c.id == render_id).values(waited_until=None))
