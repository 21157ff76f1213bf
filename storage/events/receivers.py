"""Receivers of webhooks: whose messages are due, and which failed or took long the last time.

A receiver is a host and port to which one owner has messages sent: what another owner's messages meet there is no fault
of this one's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Select, delete, func, literal_column, select

from storage.database.connection import Database, database_now
from storage.database.upsert import insert_on_conflict
from storage.database.webhook_tables import deliveries, failing_receivers

#: What was not tried for longer than any retry takes is forgotten: nothing waits for it.
_FORGOTTEN_SECONDS = 7 * 86400.0
#: Of a host; names in DNS have no more.
_LONGEST_NAME = 255
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, kw_only=True)
class DueReceiver:
    """A receiver for which a message is due."""

    name: str
    #: When the first of its messages was due, seconds since 1970.
    due_at: float
    #: It failed, or took long, the last time.
    failing: bool

    @property
    def owner(self) -> str:
        return owner_of(self.name)


def receiver_of(owner: str, url: str) -> str:
    """Return by which name a receiver is counted: `ann hooks.example:443`, whatever the path is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        # It was checked when it was named, perhaps by rules of an earlier version.
        host, port = "", 0
    return f"{owner} {host[:_LONGEST_NAME]}:{port}"


def owner_of(receiver: str) -> str:
    """Return whose receiver this is; names of owners have no spaces."""
    return receiver.partition(" ")[0]


def due_receivers(database: Database) -> Sequence[DueReceiver]:
    """List the receivers for which messages are due, in no order.

    It looks at two entries of an index for each receiver that has messages waiting, however many those are.
    """
    with database.ask() as connection:
        rows = connection.execute(_due())
        return [DueReceiver(name=row.name, due_at=row.due_at, failing=bool(row.failing)) for row in rows]


@cache
def _due() -> Select[Any]:
    """Select them: built once, for it is asked every other second."""
    waiting = deliveries.alias("waiting")
    pending = waiting.c.state == literal_column("'pending'")
    first: Any = select(select(func.min(waiting.c.receiver)).where(pending).scalar_subquery().label("name"))
    names = first.cte("names", recursive=True)
    following = select(func.min(waiting.c.receiver)).where(pending, waiting.c.receiver > names.c.name)
    names = names.union_all(select(following.scalar_subquery()).where(names.c.name.is_not(None)))
    due_at = select(func.min(waiting.c.next_at)).where(pending, waiting.c.receiver == names.c.name).scalar_subquery()
    failing = select(failing_receivers.c.name).where(failing_receivers.c.name == names.c.name).exists()
    found = (
        select(names.c.name, due_at.label("due_at"), failing.label("failing"))
        .where(names.c.name.is_not(None))
        .subquery()
    )
    return select(found).where(found.c.due_at <= database_now())


def note_failing(connection: Connection, receiver: str) -> None:
    """Have a receiver's messages tried after those of others, until one is delivered well."""
    old = failing_receivers.c.failed_at < database_now() - _FORGOTTEN_SECONDS
    connection.execute(delete(failing_receivers).where(old))
    noted = insert_on_conflict(connection, failing_receivers).values(name=receiver, failed_at=database_now())
    connection.execute(
        noted.on_conflict_do_update(
            index_elements=[failing_receivers.c.name], set_={"failed_at": noted.excluded.failed_at}
        )
    )


def note_well(connection: Connection, receiver: str) -> None:
    """Have a receiver's messages tried in their order again."""
    connection.execute(delete(failing_receivers).where(failing_receivers.c.name == receiver))
