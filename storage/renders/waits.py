"""Which renders a client waits for on an open connection, whichever API process holds it."""

from collections.abc import Collection

from sqlalchemy import Connection, select, update

from storage.database.connection import Database, database_now, transaction
from storage.database.tables import renders

#: A process that ends while a client waits leaves its renders marked for so long.
_MARKED_SECONDS = 30.0
#: How often to mark them again.
RENEWED_EVERY_SECONDS = 10.0


class Waits:
    """Marks renders while a client waits for them, and finds the marked ones."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @transaction
    def mark(self, connection: Connection, ids: Collection[str]) -> None:
        """Mark renders for a while, again and again as long as somebody waits for them."""
        until = database_now() + _MARKED_SECONDS
        connection.execute(update(renders).where(renders.c.id.in_(sorted(ids))).values(waited_until=until))

    @transaction
    def unmark(self, connection: Connection, ids: Collection[str]) -> None:
        """Take the marks away."""
        connection.execute(update(renders).where(renders.c.id.in_(sorted(ids))).values(waited_until=None))

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
